//! How problems are shown.

use super::*;

fn shown(text: &str, span: Range<usize>) -> String {
    Problems::new(vec![Problem::new(text, Some(span), "Wrong")])
        .of_file("f")
        .to_string()
}

#[test]
fn the_place_is_marked_below_the_line() {
    let text = "a = 1\nbé = \"x\"\r\n\tc = 2";
    assert_eq!(shown(text, 0..1), "f:1:1: Wrong\n  |\n1 | a = 1\n  | ^");
    assert_eq!(
        shown(text, 12..15),
        "f:2:6: Wrong\n  |\n2 | bé = \"x\"\n  |      ^^^"
    );
    assert_eq!(shown(text, 18..19), "f:3:2: Wrong\n  |\n3 |  c = 2\n  |  ^");
    // At the end, over several lines, beyond the text, and within a letter.
    assert!(shown(text, 23..23).contains("f:3:7: "));
    assert_eq!(shown(text, 4..9).lines().last(), Some("  |     ^"));
    assert!(shown(text, 400..900).contains("f:3:7: "));
    assert!(shown(text, 8..9).contains("f:2:2: "));
}

#[test]
fn only_a_part_of_a_long_line_is_shown() {
    let text = format!("{}{}", "é".repeat(1000), "x".repeat(1000));
    let shown = shown(&text, 2000..3000);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "f:1:1001: Wrong");
    assert_eq!(lines[2].chars().count(), "1 | ".len() + 100);
    assert_eq!(lines[2].chars().nth("1 | ".len() + 25), Some('x'));
    assert_eq!(
        lines[3],
        format!("  | {}{}", " ".repeat(25), "^".repeat(75))
    );
}

#[test]
fn a_problem_without_a_place_has_the_file_only() {
    let problems: Problems = ["Wrong".to_owned()].into_iter().collect();
    assert_eq!(problems.to_string(), "Wrong");
    assert_eq!(problems.of_file("f").to_string(), "f: Wrong");
}

#[test]
fn what_is_not_toml_is_shown_at_its_place() {
    for (text, expected) in [
        ("a = 1\na = 2", "2:1: Duplicate key"),
        ("[a]\nb = \n", "2:"),
        ("a = \"x", "1:"),
        ("[a\n", "1:"),
        ("=", "1:1"),
    ] {
        let message = Document::parse(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}
