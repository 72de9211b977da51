//! The contexts of a user: which volantd is where, and which file has the token for it. Holds no token and connects to nothing.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};

use std::path::{Path, PathBuf};

use common::name::Name;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use serde::{Deserialize, Serialize};

/// The largest file that is read: each context has some hundred bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where it is below the user's directory for configurations.
const FILE: &str = "volant/config.toml";

/// A file of contexts that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextsError {
    /// There is no home directory.
    #[error("Neither XDG_CONFIG_HOME nor HOME says where the contexts are kept")]
    NoHome,
    /// It cannot be read.
    #[error("Cannot read the contexts")]
    Read(#[source] io::Error),
    /// It is no TOML, or something else than contexts.
    #[error("`{}` does not hold contexts", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It cannot be written.
    #[error("Cannot write the contexts")]
    Write(#[source] io::Error),
    /// They cannot be written as TOML.
    #[error("Cannot write the contexts as TOML")]
    Format(#[source] toml::ser::Error),
    /// No such context.
    #[error("There is no context `{name}`")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// None is the current one.
    #[error("No context is the current one")]
    NoCurrent,
}

/// One context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Where volantd is, as `--api`.
    pub api: String,
    /// A file with the token for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A file with the certificates that vouch for it, for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// The contexts of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// The one that is used unless another is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Name>,
    /// All of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<Name, Saved>,
}

/// Where the contexts are, by the variables `XDG_CONFIG_HOME` (XDG Base Directory Specification) and `HOME`.
pub fn file(config_home: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
    let absolute = |text: &&str| text.starts_with('/');
    let folder = match config_home.filter(absolute) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(home.filter(absolute)?).join(".config"),
    };
    Some(folder.join(FILE))
}

impl Contexts {
    /// Reads them; none if there is no file.
    ///
    /// # Errors
    /// [`ContextsError`] if there is a file that cannot be used.
    pub fn load(path: &Path) -> Result<Self, ContextsError> {
        let file = match fs_err::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ContextsError::Read(error)),
        };
        let mut text = String::new();
        file.take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(ContextsError::Read)?;
        toml::from_str(&text).map_err(|source| ContextsError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Writes them beside the file and then over it, so that there is always a whole one.
    ///
    /// # Errors
    /// [`ContextsError::Write`], [`ContextsError::Format`].
    pub fn save(&self, path: &Path) -> Result<(), ContextsError> {
        let text = toml::to_string(self).map_err(ContextsError::Format)?;
        let write = || {
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            let beside = path.with_extension(format!("toml.{}", std::process::id()));
            let mut file = fs_err::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs_err::rename(&beside, path)
        };
        write().map_err(ContextsError::Write)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ContextsError::Unknown`].
    pub fn get(&self, name: &str) -> Result<&Saved, ContextsError> {
        let found = self.contexts.iter().find(|(key, _)| key.as_str() == name);
        found
            .map(|(_, saved)| saved)
            .ok_or_else(|| ContextsError::Unknown {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_below_the_users_configuration() {
        let path = |config, home| file(config, home).map(|path| path.display().to_string());
        assert_eq!(
            path(Some("/c"), Some("/h")).unwrap(),
            "/c/volant/config.toml"
        );
        let below_home = "/h/.config/volant/config.toml";
        assert_eq!(path(Some("relative"), Some("/h")).unwrap(), below_home);
        assert_eq!(path(None, Some("/h")).unwrap(), below_home);
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn what_is_saved_is_read_again_by_its_user_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/config.toml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let saved = Saved {
            api: "https://lab.example.org".to_owned(),
            token_file: Some(PathBuf::from("/t")),
            ca_file: Some(PathBuf::from("/c")),
        };
        let name: Name = "lab".parse().unwrap();
        let contexts = Contexts {
            current: Some(name.clone()),
            contexts: [(name, saved.clone())].into(),
        };
        contexts.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        assert_eq!(contexts.get("lab").unwrap(), &saved);
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for text in [
            "tokens = 1",
            "[contexts.lab]\napi = 1",
            "[contexts.Lab]\napi = 'x'",
            "[",
        ] {
            fs_err::write(&path, text).unwrap();
            let error = Contexts::load(&path).unwrap_err();
            assert!(matches!(error, ContextsError::Parse { .. }), "{text}");
        }
    }
}
