//! `cargo xtask schemas`: writes the JSON Schemas in `docs/schemas`, or checks that they are current and that the repository's own
//! files fulfil them. The schemas themselves are made in `common::schema`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use common::schema::{self, Published};
use fs_err as fs;

use crate::tally::Tally;
use crate::{printer, process, workspace};

/// Where the schemas lie.
const FOLDER: &str = "docs/schemas";

/// Which files of the repository fulfil which schema.
const FILES: [(&str, &[&str]); 3] = [
    (
        "fledge-toml-v1.json",
        &["examples/caddy/fledge.toml", "examples/hello/fledge.toml"],
    ),
    ("manifest-toml-v1.json", &["examples/hello/manifest.toml"]),
    (
        "plugin-manifest-v1.json",
        &["examples/caddy/manifest/caddy.json"],
    ),
];

/// Says of each file whether it fulfils the schema before it, by another implementation of JSON Schema than any of ours. That it can
/// refuse is tried with a key that no schema knows. Status 3: the module is not there.
const VALIDATOR: &str = r#"
import json, sys, tomllib
try:
    import jsonschema
except ImportError:
    sys.exit(3)
for schema_path, path in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(schema_path) as file:
        schema = json.load(file)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    with open(path, "rb") as file:
        instance = tomllib.load(file) if path.endswith(".toml") else json.load(file)
    for error in validator.iter_errors(instance):
        sys.exit(f"{path}: {error.json_path}: {error.message}")
    if validator.is_valid({**instance, "surprise": 1}):
        sys.exit(f"{schema_path}: it accepts any key")
"#;

/// What [`VALIDATOR`] ends with where the module is not there.
const NO_MODULE: i32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write nothing: fail if a schema is not current, or a file of the repository does not fulfil its own
    #[arg(long)]
    check: bool,
}

/// Writes or checks the schemas.
///
/// # Errors
/// When one cannot be written, or what is checked does not hold.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        let mut tally = Tally::default();
        check(&mut tally)?;
        printer::result(&tally.to_string());
        return Ok(());
    }
    let folder = workspace::root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    for published in schema::all() {
        let path = folder.join(published.file);
        fs::write(&path, text(&published)?)?;
        printer::result(&format!("{FOLDER}/{}", published.file));
    }
    Ok(())
}

/// Checks that the schemas are current, and that the repository's files fulfil them.
///
/// # Errors
/// The first schema or file that is not as it should be.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    let root = workspace::root();
    for published in schema::all() {
        let path = root.join(FOLDER).join(published.file);
        is_current(&path, &published)?;
        tally.passed += 1;
    }
    validate(&root, tally)
}

fn is_current(path: &Path, published: &Published) -> Result<()> {
    let found = fs::read_to_string(path).unwrap_or_default();
    if found != text(published)? {
        bail!(
            "`{FOLDER}/{}` is not current: run `cargo xtask schemas`",
            published.file
        );
    }
    Ok(())
}

/// As it is written: for people to read, too.
fn text(published: &Published) -> Result<String> {
    let mut text = serde_json::to_string_pretty(&published.schema)
        .context("Cannot write the schema as JSON")?;
    text.push('\n');
    Ok(text)
}

fn validate(root: &Path, tally: &mut Tally) -> Result<()> {
    const WHAT: &str = "the validation of the examples by their schemas";
    let Some(python) = process::find("python3") else {
        tally.skip(WHAT, "python3 is not installed");
        return Ok(());
    };
    let pairs: Vec<[PathBuf; 2]> = FILES
        .iter()
        .flat_map(|(schema, files)| {
            files
                .iter()
                .map(move |file| [root.join(FOLDER).join(schema), root.join(file)])
        })
        .collect();
    let output = Command::new(python)
        .args(["-c", VALIDATOR])
        .args(pairs.iter().flatten())
        .output()
        .context("Cannot start python3")?;
    if output.status.code() == Some(NO_MODULE) {
        tally.skip(WHAT, "Python's module `jsonschema` is not installed");
        return Ok(());
    }
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    tally.passed += u64::try_from(pairs.len())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_are_current_and_the_examples_fulfil_them() {
        let mut tally = Tally::default();
        check(&mut tally).unwrap();
        assert!(tally.passed >= 3);
    }

    #[test]
    fn every_schema_has_files_that_fulfil_it() {
        for published in schema::all() {
            assert!(FILES.iter().any(|(file, _)| *file == published.file));
        }
    }

    #[test]
    fn an_old_schema_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let [published, ..] = schema::all();
        let path = folder.path().join(published.file);
        assert!(is_current(&path, &published).is_err());
        fs::write(&path, text(&published).unwrap()).unwrap();
        is_current(&path, &published).unwrap();
    }
}
