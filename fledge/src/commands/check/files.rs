//! The files that a build spec names: are they there, can they be used, and do they fit together? What is fetched is left out.

use std::io;
use std::path::Path;

use common::build_spec::{
    AgentSource, Base, BuildSpec, Dockerfile, Draft, Finding, Init, Mark, Output, pointer,
};
use common::digest::Digest;
use common::error_chain::Chain;
use common::exit_code::ExitCode;

use crate::assemble::{
    AGENT_PATH, APPLETS, AssembleError, BUSYBOX_PATH, INIT_PATH, INIT_TARGET, MORE_APPLETS,
    check_agent,
};
use crate::commands::archive_limit;
use crate::image::hashed::Hashed;
use crate::oci::{Place, Source};
use crate::tree::host::{self, HostError};
use crate::tree::{Content, Kind, Node, Origin, Tree};

/// Permissions of a program.
const PROGRAM_PERMISSIONS: u32 = 0o755;

/// What the files are like.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What the image will hold, as far as it is known without fetching.
    pub(super) tree: Tree,
    /// What is wrong, in no order.
    pub(super) findings: Vec<Finding>,
    /// The exit code for each of them.
    pub(super) codes: Vec<ExitCode>,
}

impl Found {
    fn problem(&mut self, pointer: String, mark: Mark, sentence: String, code: ExitCode) {
        self.findings.push(Finding {
            pointer,
            mark,
            sentence,
        });
        self.codes.push(code);
    }

    fn host(&mut self, pointer: String, mark: Mark, error: &HostError) {
        let code = match error {
            HostError::NotFound { .. } => ExitCode::NotFound,
            HostError::Read { .. }
            | HostError::Special { .. }
            | HostError::TooDeep { .. }
            | HostError::Place { .. } => ExitCode::Invalid,
        };
        self.problem(pointer, mark, Chain(error).to_string(), code);
    }

    /// Stands for a program that is fetched. That nothing else lies there is sure: the tree was empty.
    fn stand_in(&mut self, path: &str, node: Node, origin: Origin) {
        if let Ok(path) = path.parse() {
            drop(self.tree.insert(&path, node, origin));
        }
    }
}

/// Looks at the files that the `spec` of `draft` names, which are relative to `directory`. What its text says wrong is not said again.
pub(super) fn find(draft: &Draft, spec: &BuildSpec, directory: &Path) -> Found {
    let mut found = Found::default();
    let is_understood = |place: &str| {
        !draft
            .findings
            .iter()
            .any(|finding| finding.pointer == place)
    };
    let program = || Node::file(PROGRAM_PERMISSIONS, Content::Bytes(Vec::new()));
    match &spec.init {
        Init::Agent(source) => {
            if let AgentSource::Local { path, checksum } = source {
                agent(&directory.join(path), *checksum, &mut found);
            }
            found.stand_in(AGENT_PATH, program(), Origin::Boot);
            if matches!(spec.output, Output::Initramfs { .. }) {
                found.stand_in(INIT_PATH, Node::symlink(INIT_TARGET), Origin::Boot);
            }
        }
        Init::Custom(path) => custom_init(&directory.join(path), &spec.output, &mut found),
        Init::None => {}
    }
    if spec.busybox.is_some() {
        found.stand_in(BUSYBOX_PATH, program(), Origin::Base);
        for applet in APPLETS.iter().chain(&MORE_APPLETS) {
            let path = format!("/bin/{applet}");
            found.stand_in(&path, Node::symlink("busybox"), Origin::Base);
        }
    }
    match &spec.base {
        Some(Base::Dockerfile(spec)) => dockerfile(spec, directory, &mut found),
        Some(Base::Image(reference)) if is_understood("/source/image") => {
            image(reference, directory, &mut found);
        }
        Some(Base::Image(_)) | None => {}
    }
    mappings(spec, directory, &mut found);
    for source in draft.misplaced() {
        if let Err(error) = host::look(&directory.join(&source)) {
            found.host(pointer(&["mappings", &source]), Mark::Key, &error);
        }
    }
    let may_be_fetched = spec.base.is_some() || !spec.fetches.is_empty();
    if spec.init == Init::None
        && !may_be_fetched
        && draft.findings.is_empty()
        && found.findings.is_empty()
        && found.tree.resolve(INIT_PATH.as_bytes()).is_none()
    {
        let sentence = AssembleError::NoInit.to_string();
        found.problem(
            "/init/none".to_owned(),
            Mark::Key,
            sentence,
            ExitCode::Invalid,
        );
    }
    found
}

fn agent(path: &Path, checksum: Option<Digest>, found: &mut Found) {
    let place = || "/agent/path".to_owned();
    if let Err(error) = host::look(path) {
        return found.host(place(), Mark::Value, &error);
    }
    match check_agent(path) {
        Ok(()) => {}
        Err(AssembleError::Host(error)) => return found.host(place(), Mark::Value, &error),
        Err(error) => {
            let sentence = Chain(&error).to_string();
            found.problem(place(), Mark::Value, sentence, ExitCode::Invalid);
        }
    }
    let Some(expected) = checksum else {
        return;
    };
    match digest(path) {
        Ok(digest) if digest == expected => {}
        Ok(digest) => found.problem(
            "/agent/checksum".to_owned(),
            Mark::Value,
            format!("This is not the checksum of the agent, which is {digest}"),
            ExitCode::Verification,
        ),
        Err(error) => {
            let sentence = Chain(&error).to_string();
            found.problem(place(), Mark::Value, sentence, ExitCode::Invalid);
        }
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut hashed = Hashed::new(io::sink());
    io::copy(&mut fs_err::File::open(path)?, &mut hashed)?;
    Ok(hashed.finish().1)
}

fn custom_init(path: &Path, output: &Output, found: &mut Found) {
    let size_bytes = fs_err::metadata(path).map_or(0, |metadata| metadata.len());
    if let Some(sentence) = archive_limit::too_large(output, path, size_bytes) {
        let place = "/init/path".to_owned();
        found.problem(place, Mark::Value, sentence, ExitCode::Invalid);
    }
    let Ok(guest) = INIT_PATH.parse() else {
        return;
    };
    let permissions = Some(PROGRAM_PERMISSIONS);
    if let Err(error) = host::add_file(&mut found.tree, path, &guest, permissions, Origin::Boot) {
        found.host("/init/path".to_owned(), Mark::Value, &error);
    }
}

fn image(reference: &str, directory: &Path, found: &mut Found) {
    let place = || "/source/image".to_owned();
    match Source::parse(reference, directory) {
        Ok(source) => {
            if let Place::Path { path, .. } = source.place
                && let Err(error) = host::look(&path)
            {
                found.host(place(), Mark::Value, &error);
            }
        }
        Err(error) => {
            let sentence = Chain(&error).to_string();
            found.problem(place(), Mark::Value, sentence, ExitCode::Invalid);
        }
    }
}

fn dockerfile(dockerfile: &Dockerfile, directory: &Path, found: &mut Found) {
    let mut expect = |key: &str, path: &str, is_directory: bool| {
        let path = directory.join(path);
        let place = pointer(&["source", key]);
        match host::look(&path) {
            Ok(kind) if (kind == host::Found::Directory) == is_directory => {}
            Ok(_) => {
                let what = if is_directory { "directory" } else { "file" };
                let sentence = format!("`{}` is not a {what}", path.display());
                found.problem(place, Mark::Value, sentence, ExitCode::Invalid);
            }
            Err(error) => found.host(place, Mark::Value, &error),
        }
    };
    expect("dockerfile", &dockerfile.path, false);
    if let Some(context) = &dockerfile.context {
        expect("context", context, true);
    }
}

/// Directories first, as they are laid into the image.
fn mappings(spec: &BuildSpec, directory: &Path, found: &mut Found) {
    let mut files = Vec::new();
    for (source, guest) in &spec.mappings {
        let path = directory.join(source);
        let place = pointer(&["mappings", source]);
        match host::look(&path) {
            Ok(host::Found::File) => files.push((path, place, guest)),
            Ok(host::Found::Directory) => {
                if let Err(error) = host::add_directory(&mut found.tree, &path, guest) {
                    found.host(place, Mark::Key, &error);
                }
            }
            Err(error) => found.host(place, Mark::Key, &error),
        }
    }
    for (path, place, guest) in files {
        if let Err(error) = host::add_file(&mut found.tree, &path, guest, None, Origin::File) {
            found.host(place, Mark::Key, &error);
        }
    }
    too_large(spec, directory, found);
}

/// What of the mappings an archive cannot hold. Files that another mapping replaces are not in the image, and not meant.
fn too_large(spec: &BuildSpec, directory: &Path, found: &mut Found) {
    let files = found.tree.iter().filter_map(|item| match &item.node.kind {
        Kind::File(Content::Host { path, size_bytes }) => {
            let sentence = archive_limit::too_large(&spec.output, path, *size_bytes)?;
            let sources = spec.mappings.keys();
            let source = sources
                .filter(|source| path.starts_with(directory.join(source)))
                .max_by_key(|source| source.len())?;
            Some((pointer(&["mappings", source]), sentence))
        }
        _ => None,
    });
    for (place, sentence) in files.collect::<Vec<_>>() {
        found.problem(place, Mark::Key, sentence, ExitCode::Invalid);
    }
}
