//! `fledge check`: finds everything that is wrong with a build spec, its manifest and the files that they name. Fetches nothing, writes
//! nothing.

mod files;

use std::path::{Path, PathBuf};

use clap::Args;
use common::build_spec::{
    BuildSpec, Draft, MAX_SPEC_BYTES, ManifestTemplate, Output, Problems, locate,
};
use common::error_chain::Chain;
use common::exit_code::ExitCode;
use common::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError};

use super::small_file::{self, FileError};
use crate::tree::Tree;
use crate::ui::Ui;
use crate::workload;
use files::Found;

/// The template that is used where there is one and none is named.
const DEFAULT_TEMPLATE: &str = "manifest.toml";

const EXAMPLES: &str = "\
Examples:
  fledge check
      check ./fledge.toml and, if it is there, ./manifest.toml
  fledge check --config app/fledge.toml --manifest app/manifest/app.json
      check another directory's, with a manifest in JSON

All problems are shown at once, each with its line. Nothing is downloaded: what a container image holds shows when it is built.
The exit code is 0 if all is in order, 3 if only files are missing, 6 if only a checksum does not match, and 1 otherwise.";

/// Flags of `fledge check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The build spec; relative paths in it are taken from its directory
    #[arg(short, long, value_name = "FILE", default_value = "fledge.toml")]
    config: PathBuf,
    /// The manifest, as TOML or JSON [default: manifest.toml beside the spec, if it is there]
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// What is wrong, as it will be printed.
#[derive(Debug, Default)]
struct Report {
    texts: Vec<String>,
    codes: Vec<ExitCode>,
}

impl Report {
    fn add(&mut self, text: impl Into<String>, code: ExitCode) {
        self.texts.push(text.into());
        self.codes.push(code);
    }

    fn problems(&mut self, problems: &Problems, code: ExitCode) {
        for text in problems.texts() {
            self.add(text, code);
        }
    }

    fn file(&mut self, error: &FileError) {
        self.add(Chain(error).to_string(), error.exit_code());
    }

    /// One kind of problem has its own code, several have the general one.
    fn exit_code(&self) -> ExitCode {
        match self.codes.as_slice() {
            [] => ExitCode::Success,
            [first, rest @ ..] if rest.iter().all(|code| code == first) => *first,
            _ => ExitCode::Invalid,
        }
    }
}

/// A manifest's template and the file that it is in.
struct Template {
    path: PathBuf,
    template: ManifestTemplate,
}

impl Template {
    fn explain(&self, error: &ManifestError) -> Problems {
        let name = self.path.display().to_string();
        self.template.explain(error).of_file(name)
    }
}

/// Checks, and prints what is wrong.
pub fn run(args: &CheckArgs, ui: &Ui) -> ExitCode {
    let mut report = Report::default();
    let directory = args.config.parent().unwrap_or(Path::new(""));
    let mut tree = None;
    let text = small_file::read(&args.config, "build spec", limit(MAX_SPEC_BYTES))
        .map_err(|error| report.file(&error));
    let spec = text.as_deref().ok().and_then(|text| {
        let draft = parse(text, &args.config, &mut report)?;
        let found = draft
            .spec
            .as_ref()
            .map_or_else(Found::default, |spec| files::find(&draft, spec, directory));
        let mut findings = draft.findings;
        let mut codes = vec![ExitCode::Invalid; findings.len()];
        findings.extend(found.findings);
        codes.extend(found.codes);
        let is_whole = |spec: &BuildSpec| spec.base.is_none() && spec.fetches.is_empty();
        if findings.is_empty() && draft.spec.as_ref().is_some_and(is_whole) {
            tree = Some(found.tree);
        }
        if !findings.is_empty() {
            let problems = locate(text, findings).of_file(args.config.display().to_string());
            report.texts.extend(problems.texts());
            report.codes.extend(codes);
        }
        draft.spec
    });
    let template = read_template(args, directory, spec.as_ref(), &mut report);
    if let (Some(spec), Some(template)) = (&spec, &template)
        && let Some(manifest) = compose(spec, template, &mut report)
        && let Some(tree) = &tree
    {
        check_workload(tree, template, &manifest, &mut report);
    }
    if let Some(tree) = &tree {
        warn_of_loaders(tree, ui);
    }
    for text in &report.texts {
        ui.error(text, &[], &[]);
    }
    if report.texts.is_empty() {
        conclude(args, spec.as_ref(), template.as_ref(), ui);
    }
    report.exit_code()
}

fn parse(text: &str, path: &Path, report: &mut Report) -> Option<Draft> {
    use common::build_spec::BuildSpecError;
    match Draft::parse(text) {
        Ok(draft) => return Some(draft),
        Err(BuildSpecError::Invalid(problems)) => {
            let problems = problems.of_file(path.display().to_string());
            report.problems(&problems, ExitCode::Invalid);
        }
        Err(error @ BuildSpecError::TooLarge { .. }) => {
            report.add(format!("{}: {error}", path.display()), ExitCode::Invalid);
        }
    }
    None
}

/// Reads the template that is named, else the default one if it is there.
fn read_template(
    args: &CheckArgs,
    directory: &Path,
    spec: Option<&BuildSpec>,
    report: &mut Report,
) -> Option<Template> {
    use common::build_spec::TemplateError;
    let path = args
        .manifest
        .clone()
        .unwrap_or_else(|| directory.join(DEFAULT_TEMPLATE));
    let text = match small_file::read(&path, "manifest", limit(MAX_MANIFEST_BYTES)) {
        Ok(text) => text,
        Err(FileError::NotFound { .. }) if args.manifest.is_none() => return None,
        Err(error) => {
            report.file(&error);
            return None;
        }
    };
    let is_json = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let template = match spec {
        Some(spec) if is_json && is_alone(spec) => {
            ManifestTemplate::from_complete_json(text.as_bytes())
        }
        _ if is_json => ManifestTemplate::from_json(text.as_bytes()),
        Some(spec) if is_alone(spec) => ManifestTemplate::from_complete_toml(&text),
        // An image may say what is missing.
        Some(_) | None => ManifestTemplate::from_toml(&text),
    };
    let name = path.display().to_string();
    match template {
        Ok(template) => return Some(Template { path, template }),
        Err(TemplateError::Invalid(problems)) => {
            report.problems(&problems.of_file(name), ExitCode::Invalid);
        }
        Err(error) => report.add(format!("{name}: {error}"), ExitCode::Invalid),
    }
    None
}

/// Whether no image says what the manifest does not. A root file system has one, even where it is not clear which.
fn is_alone(spec: &BuildSpec) -> bool {
    spec.base.is_none() && matches!(spec.output, Output::Initramfs { .. })
}

/// The manifest, if it does not need an image to be complete.
fn compose(spec: &BuildSpec, template: &Template, report: &mut Report) -> Option<Manifest> {
    if !is_alone(spec) {
        return None;
    }
    template
        .template
        .manifest("/plugin", None, &spec.output)
        .map_err(|error| report.problems(&template.explain(&error), ExitCode::Invalid))
        .ok()
}

fn check_workload(tree: &Tree, template: &Template, manifest: &Manifest, report: &mut Report) {
    if let Err(error) = workload::check(tree, &manifest.workload) {
        let error = ManifestError::one("/workload/entrypoint", Chain(&error).to_string());
        report.problems(&template.explain(&error), ExitCode::Invalid);
    }
}

fn warn_of_loaders(tree: &Tree, ui: &Ui) {
    for (path, interpreter) in workload::without_loader(tree).unwrap_or_default() {
        ui.warn(&format!(
            "`{path}` is dynamically linked and will not start: its loader `{interpreter}` is not in the image"
        ));
    }
}

fn conclude(args: &CheckArgs, spec: Option<&BuildSpec>, template: Option<&Template>, ui: &Ui) {
    let config = args.config.display();
    if let Some(template) = template {
        let manifest = template.path.display();
        ui.result(&format!("{config} and {manifest} are in order"));
    } else {
        ui.result(&format!("{config} is in order"));
        ui.note("there is no manifest: name the plugin in a `manifest.toml` beside the spec");
    }
    if spec.is_some_and(|spec| spec.base.is_some() || !spec.fetches.is_empty()) {
        ui.note("what the image or the downloads hold was not looked at");
    }
}

fn limit(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
