//! What a build puts into the manifest beside the artifact: a `manifest.toml`, or a manifest that exists already; alone, or over what a
//! container image says of itself.
//!
//! Keys and types are those of the manifest, and its contents are checked by [`Manifest::from_json`], so that there is one set of rules.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::document::{Document, Findings, Problems};
use super::{Filesystem, MAX_SPEC_BYTES, Output};
use crate::digest::Digest;
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError, RawManifest};

/// Members of which the template gives some and the image others; any other is the one's or the other's.
const MERGED: [&str; 7] = [
    "actions",
    "health_check",
    "labels",
    "network",
    "resources",
    "rootfs",
    "workload",
];

/// Of these members of a part, the first one given by the template takes the second one from the image away: a command's arguments mean
/// nothing to another command, and there is one way to find out health.
const REPLACED: [(&str, &str, &str); 4] = [
    ("workload", "entrypoint", "args"),
    ("health_check", "endpoint", "command"),
    ("health_check", "tcp_port", "command"),
    ("health_check", "command", "endpoint"),
];

/// What the build alone knows of the artifact.
const FILLED_IN: [(&str, &str); 4] = [
    ("/initramfs", "initramfs"),
    ("/rootfs/url", "rootfs.url"),
    ("/rootfs/checksum", "rootfs.checksum"),
    ("/rootfs/format", "rootfs.format"),
];

/// Members of a manifest in JSON that say nothing of the plugin: its schema, and what the Go system wrote for information.
const READ_OVER: [&str; 3] = ["$schema", "image", "image_digest"];

/// A template that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is larger than is read.
    #[error("The manifest has {found_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge {
        /// How large it is.
        found_bytes: usize,
        /// How large it may be.
        limit_bytes: usize,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Invalid(Problems),
    /// It is not a JSON object.
    #[error("It is not a JSON object: {0}")]
    Json(String),
}

/// How often the rest of a template is looked at behind what is wrong: a wrong name hides what comes behind it, once.
const MAX_ROUNDS: usize = 4;

/// What becomes of members that a manifest must have and a template has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// An image has them.
    FromImage,
    /// They are a problem.
    Wrong,
}

/// A manifest without its artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestTemplate {
    members: Map<String, Value>,
    /// The `manifest.toml`, to point at places in it.
    toml: Option<String>,
}

impl TemplateError {
    /// The same error with the name of the file that has it.
    #[must_use]
    pub fn of_file(self, name: &str) -> Self {
        match self {
            Self::Invalid(problems) => Self::Invalid(problems.of_file(name)),
            other => other,
        }
    }
}

impl ManifestTemplate {
    /// Reads a `manifest.toml` that may leave to an image what it does not say.
    ///
    /// # Errors
    /// Where the text is not TOML, has keys that mean nothing or values that no manifest can have: all problems at once.
    pub fn from_toml(text: &str) -> Result<Self, TemplateError> {
        Self::read(text, Missing::FromImage)
    }

    /// Reads a `manifest.toml` that must say everything.
    ///
    /// # Errors
    /// As [`ManifestTemplate::from_toml`], and where something is missing.
    pub fn from_complete_toml(text: &str) -> Result<Self, TemplateError> {
        Self::read(text, Missing::Wrong)
    }

    fn read(text: &str, missing: Missing) -> Result<Self, TemplateError> {
        limit(text.len(), MAX_SPEC_BYTES)?;
        let document = Document::parse(text).map_err(TemplateError::Invalid)?;
        let mut found = Findings::default();
        let is_read = document.read::<RawManifest>(&mut found).is_some();
        for (pointer, key) in FILLED_IN {
            if document.has(pointer) {
                found.key(
                    pointer,
                    format!("`{key}` is filled in by the build: remove it"),
                );
            }
        }
        let template = Self {
            members: document.to_json(&found),
            toml: Some(text.to_owned()),
        };
        if is_read {
            template.find_wrong(&document, missing, &mut found);
        }
        if found.is_empty() {
            Ok(template)
        } else {
            Err(TemplateError::Invalid(document.locate(found)))
        }
    }

    /// Adds what no manifest can have, and what is missing if that is wrong.
    fn find_wrong(&self, document: &Document<'_>, missing: Missing, found: &mut Findings) {
        let output = if document.has("/rootfs") {
            Output::Rootfs(Filesystem::default())
        } else {
            Output::default()
        };
        let refused = |template: &Self| template.manifest("/plugin", None, &output).err();
        let mut rest = self.clone();
        for _ in 0..MAX_ROUNDS {
            let Some(error) = refused(&rest.over(&Value::Object(needed()))) else {
                break;
            };
            found_in_manifest(document, &error, found);
            for problem in &error.problems {
                remove(&mut rest.members, place(document, &problem.pointer));
            }
        }
        if missing == Missing::FromImage {
            return;
        }
        for member in needed().keys() {
            let mut others = needed();
            others.remove(member);
            if let Some(error) = refused(&rest.over(&Value::Object(others))) {
                found_in_manifest(document, &error, found);
            }
        }
    }

    /// Reads a manifest in JSON that may leave to an image what it does not say; the artifact that it names will be replaced.
    ///
    /// # Errors
    /// Where it is not a JSON object, has keys that mean nothing or values that no manifest can have: all problems at once.
    pub fn from_json(json: &[u8]) -> Result<Self, TemplateError> {
        Self::read_json(json, Missing::FromImage)
    }

    /// Reads a manifest in JSON that must say everything but its artifact.
    ///
    /// # Errors
    /// As [`ManifestTemplate::from_json`], and where something is missing.
    pub fn from_complete_json(json: &[u8]) -> Result<Self, TemplateError> {
        Self::read_json(json, Missing::Wrong)
    }

    fn read_json(json: &[u8], missing: Missing) -> Result<Self, TemplateError> {
        limit(json.len(), MAX_MANIFEST_BYTES)?;
        let members: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| TemplateError::Json(error.to_string()))?;
        let mut checked = without_null(members.clone());
        for key in READ_OVER {
            checked.remove(key);
        }
        // The one reader that goes on behind what is wrong is that of TOML, which can say all that a manifest can.
        let text =
            toml::to_string(&checked).map_err(|error| TemplateError::Json(error.to_string()))?;
        let document = Document::parse(&text).map_err(TemplateError::Invalid)?;
        let mut found = Findings::default();
        let is_read = document.read::<RawManifest>(&mut found).is_some();
        let template = Self {
            members: document.to_json(&found),
            toml: None,
        };
        if is_read {
            template.find_wrong(&document, missing, &mut found);
        }
        if found.is_empty() {
            return Ok(Self::from_members(members));
        }
        // The lines would be those of a text that nobody wrote.
        let mut found = found.into_vec();
        found.sort_by(|a, b| a.pointer.cmp(&b.pointer));
        let sentences = found.into_iter().map(|finding| {
            if finding.pointer.is_empty() {
                finding.sentence
            } else {
                format!("{}: {}", finding.pointer, finding.sentence)
            }
        });
        Err(TemplateError::Invalid(sentences.collect()))
    }

    /// A template of these members of a manifest, which nothing has checked: [`ManifestTemplate::manifest`] does.
    pub fn from_members(members: Map<String, Value>) -> Self {
        Self {
            members,
            toml: None,
        }
    }

    /// This template over `defaults`, a JSON object with members of a manifest: those of an image.
    ///
    /// What both say is taken from the template, member by member; the environments are merged by key. `defaults` has the image's
    /// Entrypoint in `workload.entrypoint` and its Cmd in `workload.args`: an `entrypoint` in the template replaces both, as a
    /// container's own does, and `args` the latter.
    #[must_use]
    pub fn over(&self, defaults: &Value) -> Self {
        let mut merged = defaults.as_object().cloned().unwrap_or_default();
        gather_environment(&mut merged);
        let mut own = self.members.clone();
        gather_environment(&mut own);
        for (part, key, replaced) in REPLACED {
            let is_given = own.get(part).is_some_and(|own| own.get(key).is_some());
            if is_given && let Some(Value::Object(under)) = merged.get_mut(part) {
                under.remove(replaced);
            }
        }
        for (key, value) in own {
            match (merged.get_mut(&key), value) {
                (Some(Value::Object(under)), Value::Object(over)) if MERGED.contains(&&*key) => {
                    merge(under, over);
                }
                (_, value) => {
                    merged.insert(key, value);
                }
            }
        }
        Self {
            members: merged,
            toml: self.toml.clone(),
        }
    }

    /// The manifest of the artifact at `url` with the given digest, which the build made as `output` says.
    ///
    /// # Errors
    /// Everything that a manifest can be refused for; [`ManifestTemplate::explain`] says where in the template.
    pub fn manifest(
        &self,
        url: &str,
        checksum: Option<Digest>,
        output: &Output,
    ) -> Result<Manifest, ManifestError> {
        let Output::Rootfs(filesystem) = output else {
            return self.finish("initramfs", artifact(url, checksum, output));
        };
        let mut rootfs = artifact(url, checksum, output);
        // What the template says of the writable layer comes before what the build spec says.
        let own = |key| self.members.get("rootfs").and_then(|own| own.get(key));
        if let Some(ephemeral) = own("ephemeral").cloned() {
            rootfs["ephemeral"] = ephemeral;
        } else if filesystem.ephemeral {
            rootfs["ephemeral"] = true.into();
        }
        if let Some(size_mb) = own("writable_mb").cloned() {
            rootfs["writable_mb"] = size_mb;
        } else if let Some(size_mb) = filesystem.writable_mb {
            rootfs["writable_mb"] = size_mb.into();
        }
        self.finish("rootfs", rootfs)
    }

    fn finish(&self, kind: &str, artifact: Value) -> Result<Manifest, ManifestError> {
        let mut members = self.members.clone();
        members.remove("initramfs");
        members.remove("rootfs");
        members.insert(kind.to_owned(), artifact);
        Manifest::from_json(Value::Object(members).to_string().as_bytes())
    }

    /// Where in the template lies what [`ManifestTemplate::manifest`] refused.
    pub fn explain(&self, error: &ManifestError) -> Problems {
        let document = self.toml.as_deref().map(Document::parse);
        let Some(Ok(document)) = document else {
            return error.problems.iter().map(ToString::to_string).collect();
        };
        let mut found = Findings::default();
        found_in_manifest(&document, error, &mut found);
        document.locate(found)
    }
}

/// What every kind of artifact has in a manifest.
fn artifact(url: &str, checksum: Option<Digest>, output: &Output) -> Value {
    let mut artifact = json!({"url": url, "format": output.format()});
    if let Some(checksum) = checksum {
        artifact["checksum"] = checksum.to_string().into();
    }
    artifact
}

/// The members without those that are `null`, which in JSON is another way to say nothing.
fn without_null(members: Map<String, Value>) -> Map<String, Value> {
    let clean = |value| match value {
        Value::Object(inner) => Value::Object(without_null(inner)),
        other => other,
    };
    members
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key, clean(value)))
        .collect()
}

/// What a manifest must have; with it, only what is there can be wrong.
fn needed() -> Map<String, Value> {
    let workload = json!({"entrypoint": ["/init"], "base_url": "http://127.0.0.1"});
    [
        ("name", json!("image")),
        ("version", json!("1")),
        ("workload", workload),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

/// Adds what the manifest is refused for; what has been said of a place already is said better there.
fn found_in_manifest(document: &Document<'_>, error: &ManifestError, found: &mut Findings) {
    let known = found.clone();
    for problem in &error.problems {
        let pointer = place(document, &problem.pointer);
        if !known.has(pointer) {
            found.also(pointer, &problem.detail);
        }
    }
}

/// Where in the template the manifest's member at `pointer` comes from: the environment can also lie at the top.
fn place<'a>(document: &Document<'_>, pointer: &'a str) -> &'a str {
    match pointer {
        "/workload/env" if !document.has(pointer) => "/env",
        pointer => pointer,
    }
}

/// Removes the member at `pointer`; of an item of a list the whole list.
fn remove(members: &mut Map<String, Value>, pointer: &str) {
    let mut keys = pointer.split('/').skip(1).peekable();
    let mut members = members;
    while let Some(key) = keys.next() {
        let key = key.replace("~1", "/").replace("~0", "~");
        if keys.peek().is_none() || !members.get(&key).is_some_and(Value::is_object) {
            members.remove(&key);
            return;
        }
        let Some(Value::Object(inner)) = members.get_mut(&key) else {
            return;
        };
        members = inner;
    }
}

/// Moves the environment at the top to the workload's, whose own variables stay: the one place where it is merged.
fn gather_environment(members: &mut Map<String, Value>) {
    let Some(Value::Object(outer)) = members.remove("env") else {
        return;
    };
    let workload = members
        .entry("workload")
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(workload) = workload else {
        return;
    };
    let environment = workload
        .entry("env")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = environment {
        let own = std::mem::replace(inner, outer);
        inner.extend(own);
    }
}

/// Lays `over` over `under`, member by member; the environment again by its members.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) if key == "env" => {
                under.extend(over);
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn limit(found_bytes: usize, limit_bytes: usize) -> Result<(), TemplateError> {
    if found_bytes > limit_bytes {
        return Err(TemplateError::TooLarge {
            found_bytes,
            limit_bytes,
        });
    }
    Ok(())
}
