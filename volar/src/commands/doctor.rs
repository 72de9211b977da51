//! `volar doctor`: prints what `crate::doctor` finds.

use std::fmt::Write as _;

use super::{CommandError, Context};
use crate::doctor::{Check, Verdict, check, gather};
use crate::ui::plain;

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let client = context.client()?;
    let host = gather(&context.settings.surroundings, &client).await;
    let checks = check(&host);
    let json = serde_json::to_string(&checks).unwrap_or_default();
    let names: Vec<&str> = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .map(|check| check.check)
        .collect();
    let color = context.settings.color_stdout;
    context
        .output
        .result(&json, &names, || text(&checks, color))?;
    if names.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Checks {
            failed: names.len(),
            total: checks.len(),
        })
    }
}

fn text(checks: &[Check], color: bool) -> String {
    let width = checks.iter().map(|check| check.check.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let (word, sgr) = match check.verdict {
            Verdict::Ok => ("ok  ", "32"),
            Verdict::Warn => ("warn", "33"),
            Verdict::Fail => ("fail", "1;31"),
        };
        let word = if color {
            format!("\u{1b}[{sgr}m{word}\u{1b}[0m")
        } else {
            word.to_owned()
        };
        let _ = writeln!(
            text,
            "{word}  {:<width$}  {}",
            check.check,
            plain(&check.says)
        );
        if let Some(hint) = &check.hint {
            let _ = writeln!(text, "      {:<width$}  -> {}", "", plain(hint));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_and_a_hint_one_more() {
        let checks = [
            Check {
                check: "kvm",
                verdict: Verdict::Ok,
                says: "It works".to_owned(),
                hint: None,
            },
            Check {
                check: "kernel",
                verdict: Verdict::Fail,
                says: "There is none".to_owned(),
                hint: Some("Make one".to_owned()),
            },
        ];
        insta::assert_snapshot!(text(&checks, false), @r"
        ok    kvm     It works
        fail  kernel  There is none
                      -> Make one
        ");
        assert!(text(&checks, true).contains("\u{1b}[1;31mfail\u{1b}[0m"));
    }
}
