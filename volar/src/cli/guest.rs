//! Commands that work inside a guest, as types: exec, shell, cp, call.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use common::name::Name;

use super::parse_duration;
use super::vms::parse_variable;

pub(super) const EXEC_EXAMPLES: &str = "\
The guest needs no shell for it. Ends with the exit code of the command, 128
plus its number for a signal, 127 if there is no such program and 126 if it
cannot be executed. With -t, Ctrl-] leaves and the command is ended; without,
Ctrl-C goes to the command, and a second one leaves.

Examples:
  volar exec web -- ls -l /srv
  volar exec -it web -- /bin/sh
  echo hello | volar exec -i web -- tee /tmp/x
  volar exec -e LOG=debug -w /srv -u 1000 web -- /srv/tool --check";

pub(super) const SHELL_EXAMPLES: &str = "\
It is the shell that the image has, as the workload's user unless -u says
otherwise. Ctrl-] leaves, like the end of the shell; the VM goes on.

Examples:
  volar shell web
  volar shell -u root web";

pub(super) const COPY_EXAMPLES: &str = "\
A directory is copied with all that is in it. - is a tar archive on stdin or
stdout. What comes out of a guest is not trusted: devices, and links that lead
out of what is copied, are left out, and set-user-ID bits are taken away.

Examples:
  volar cp web:/var/log/app.log .
  volar cp site/ web:/srv/
  volar cp web:/srv - | tar -t
  tar -c site | volar cp - web:/srv";

/// What a side of a copy can be.
const PLACE_HELP: &str = "NAME:/path, a path of this host, or - for a tar archive";

/// A command to run.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass stdin on to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// A variable for its environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// Where it runs [default: the workload's directory]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Who runs it [default: the workload's user]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The VM's name
    pub name: Name,
    /// Program and arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// A shell to open.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Who runs it [default: the workload's user]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The VM's name
    pub name: Name,
}

/// From where to where.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Where it is
    #[arg(value_name = "SOURCE", help = PLACE_HELP)]
    pub source: Place,
    /// Where it goes
    #[arg(value_name = "TARGET", help = PLACE_HELP)]
    pub target: Place,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a guest.
    Guest(GuestPath),
    /// On this host.
    Host(PathBuf),
    /// A tar archive on stdin or stdout.
    Stream,
}

/// A path in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath {
    /// The VM.
    pub name: Name,
    /// The absolute path.
    pub path: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        // A path of this host with a colon in it can be written with a `/` before that, such as `./a:b`.
        match text.split_once(':') {
            Some((name, path)) if !name.contains('/') => {
                let name = name.parse::<Name>().map_err(|error| error.to_string())?;
                if !path.starts_with('/') {
                    return Err("write the path in a VM from its root, as NAME:/path".to_owned());
                }
                let path = path.to_owned();
                Ok(Self::Guest(GuestPath { name, path }))
            }
            Some(_) | None if text.is_empty() => Err("a path is not empty".to_owned()),
            Some(_) | None => Ok(Self::Host(PathBuf::from(text))),
        }
    }
}

/// A call of a workload's API.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// The VM's name
    pub name: Name,
    /// An operation's id, or its method and path
    #[arg(value_name = "OPERATION|METHOD:PATH")]
    pub operation: String,
    /// A parameter of the query, or of the operation's path
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub query: Vec<(String, String)>,
    /// The body
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    pub body: Option<String>,
    /// A file with the body
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// How long the answer may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_a_guest_or_here() {
        let guest = |name: &str, path: &str| {
            let (name, path) = (name.parse().unwrap(), path.to_owned());
            Ok(Place::Guest(GuestPath { name, path }))
        };
        assert_eq!("web:/a:b".parse(), guest("web", "/a:b"));
        assert_eq!("-".parse(), Ok(Place::Stream));
        for host in ["a", "./a:b", "/x", "dir/"] {
            assert_eq!(host.parse(), Ok(Place::Host(PathBuf::from(host))));
        }
        for wrong in ["", "web:", "web:relative", "Web:/x", ":/x"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
