//! `volar vms operations` and `call`: the API of a workload, by its `OpenAPI` document.

use std::io::Read as _;

use common::exit_code::ExitCode;
use common::name::Name;
use reqwest::Method;

use crate::cli::CallArgs;
use crate::client::{AgentCall, Client};
use crate::commands::{CommandError, Context, Doing as _, JsonError};
use crate::output::{Operation, operation_table, operations};
use crate::ui::Sanitizer;

/// The largest body that is sent from a file.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// A call that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Neither an id that is known nor method and path.
    #[error("VM `{name}` has no operation `{operation}`")]
    Unknown {
        /// The VM.
        name: String,
        /// What was given.
        operation: String,
    },
    /// A method that is none.
    #[error("`{method}` is no HTTP method")]
    Method {
        /// What was given.
        method: String,
    },
    /// A path that begins otherwise.
    #[error("The path of a call begins with `/`")]
    Path,
    /// A parameter of the path that is missing.
    #[error("The operation needs the parameter `{name}`: give it with --query {name}=VALUE")]
    Parameter {
        /// The parameter.
        name: String,
    },
    /// The workload says no.
    #[error("The workload answered with HTTP status {status}")]
    Status {
        /// The status.
        status: u16,
    },
}

pub(in crate::commands) async fn list(context: &Context, name: &Name) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .vm_openapi(name)
        .await
        .doing(|| format!("read the API of VM `{name}`"))?;
    let found = operations(&answer.value);
    let names: Vec<&str> = found
        .iter()
        .filter_map(|found| found.id.as_deref())
        .collect();
    let operations: Vec<serde_json::Value> = found
        .iter()
        .map(|found| {
            serde_json::json!({
                "method": found.method, "path": found.path, "operation": found.id, "summary": found.summary
            })
        })
        .collect();
    let json = serde_json::Value::from(operations).to_string();
    Ok(context
        .output
        .result(&json, &names, || operation_table(&found))?)
}

pub(in crate::commands) async fn call(
    context: &Context,
    args: CallArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    let (method, path) = operation(&client, &args).await?;
    let mut query = args.query;
    let path = filled(&path, &mut query)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| CallError::Method { method })?;
    let body = match (args.body, &args.body_file) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(path)) => {
            let file = fs_err::File::open(path).map_err(JsonError::Read)?;
            let mut bytes = Vec::new();
            file.take(MAX_BODY_BYTES)
                .read_to_end(&mut bytes)
                .map_err(JsonError::Read)?;
            Some(bytes)
        }
        (None, None) => None,
    };
    let call = AgentCall {
        method,
        path,
        query,
        body,
        limit: args.timeout,
    };
    let answer = client
        .call_workload(&args.name, &call)
        .await
        .doing(|| format!("call `{}` of VM `{}`", args.operation, args.name))?;
    let output = context.output;
    match str::from_utf8(&answer.body) {
        Ok(text) if answer.is_json => output.document(text, args.name.as_str())?,
        _ if output.is_terminal() => {
            let mut filter = Sanitizer::new(output.has_color());
            let text = filter.push(&answer.body) + &filter.finish();
            output.bytes(text.as_bytes())?;
        }
        _ => output.bytes(&answer.body)?,
    }
    match answer.status {
        status @ 400.. => Err(CallError::Status { status }.into()),
        _ => Ok(()),
    }
}

impl CallError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unknown { .. } => ExitCode::NotFound,
            Self::Method { .. } | Self::Path | Self::Parameter { .. } | Self::Status { .. } => {
                ExitCode::Invalid
            }
        }
    }
}

/// Method and path, as they were given or as the document has them.
async fn operation(client: &Client, args: &CallArgs) -> Result<(String, String), CommandError> {
    if let Some((method, path)) = args.operation.split_once(':') {
        if !path.starts_with('/') {
            return Err(CallError::Path.into());
        }
        return Ok((method.to_ascii_uppercase(), path.to_owned()));
    }
    let document = client
        .vm_openapi(&args.name)
        .await
        .doing(|| format!("read the API of VM `{}`", args.name))?;
    let found = operations(&document.value)
        .into_iter()
        .find(|found| found.id.as_deref() == Some(args.operation.as_str()));
    match found {
        Some(Operation { method, path, .. }) if path.starts_with('/') => Ok((method, path)),
        Some(_) => Err(CallError::Path.into()),
        None => Err(CallError::Unknown {
            name: args.name.to_string(),
            operation: args.operation.clone(),
        }
        .into()),
    }
}

/// The path with its parameters, which are taken out of what was given.
fn filled(path: &str, given: &mut Vec<(String, String)>) -> Result<String, CallError> {
    let mut rest = path;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        let Some(at) = given.iter().position(|(key, _)| key == name) else {
            let name = name.to_owned();
            return Err(CallError::Parameter { name });
        };
        let (_, value) = given.remove(at);
        out.push_str(before);
        // One segment: a `/` in a value must not make two of it.
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_path_are_filled_in() {
        let mut given = vec![
            ("id".to_owned(), "a/b é".to_owned()),
            ("limit".to_owned(), "5".to_owned()),
        ];
        let path = filled("/items/{id}/x", &mut given).unwrap();
        assert_eq!(path, "/items/a%2Fb%20%C3%A9/x");
        assert_eq!(given.len(), 1);
        let error = filled("/items/{id}", &mut given).unwrap_err();
        assert!(matches!(error, CallError::Parameter { name } if name == "id"));
        assert_eq!(filled("/plain", &mut given).unwrap(), "/plain");
    }
}
