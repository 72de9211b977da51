//! The API of the real daemon over TCP: the token, the name that it is reached by, and the pages that may use it.

use crate::daemon::{Answer, Daemon};
use crate::netns::{self, Namespace};

fn get(daemon: &Daemon, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += "Host: 127.0.0.1:7777\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    daemon.send_over_tcp(&(request + "\r\n"))
}

#[test]
fn the_token_is_wanted_in_a_header() {
    if !netns::can_run("the API over TCP") {
        return;
    }
    let daemon = Daemon::start_on_tcp(Namespace::new(), &[]);
    let token = daemon.token();
    let bearer = format!("Bearer {token}");
    let path = "/api/v1/system/info";
    get(&daemon, path, &[]).is_problem(401, "unauthorized");
    get(&daemon, path, &[("Authorization", "Bearer wrong")]).is_problem(401, "unauthorized");
    for parameter in ["api_key", "token"] {
        let target = format!("{path}?{parameter}={token}");
        get(&daemon, &target, &[]).is_problem(401, "unauthorized");
    }
    for header in [
        ("Authorization", bearer.as_str()),
        ("X-Volant-API-Key", &token),
    ] {
        assert_eq!(get(&daemon, path, &[header]).status, 200);
    }
    for path in ["/healthz", "/openapi", "/openapi.json"] {
        assert_eq!(get(&daemon, path, &[]).status, 200, "{path}");
    }
    let page = get(&daemon, "/docs/", &[]);
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
}

#[test]
fn foreign_names_pages_and_networks_are_refused() {
    if !netns::can_run("the API over TCP") {
        return;
    }
    let environment = [
        ("VOLANT_CORS_ORIGINS", "https://ui.example.com"),
        ("VOLANT_API_HOSTS", "volant.example.com"),
        ("VOLANT_API_ALLOW_CIDR", "127.0.0.0/8"),
    ];
    let daemon = Daemon::start_on_tcp(Namespace::new(), &environment);
    let token = daemon.token();
    let key = ("X-Volant-API-Key", token.as_str());
    let path = "/api/v1/vms";
    for header in [
        ("Host", "evil.example.com"),
        ("Origin", "https://evil.example.com"),
        ("Origin", "null"),
    ] {
        get(&daemon, path, &[key, header]).is_problem(403, "forbidden");
        // Also what needs no token.
        get(&daemon, "/healthz", &[header]).is_problem(403, "forbidden");
    }
    for header in [
        ("Host", "volant.example.com:7777"),
        ("Origin", "http://127.0.0.1:7777"),
    ] {
        assert_eq!(get(&daemon, path, &[key, header]).status, 200, "{header:?}");
    }
    let page = ("Origin", "https://ui.example.com");
    let answer = get(&daemon, path, &[key, page]);
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed.as_deref(), Some("https://ui.example.com"));
    // A page must be able to read why it was refused.
    let refused = get(&daemon, path, &[page]);
    refused.is_problem(401, "unauthorized");
    assert!(refused.header("access-control-allow-origin").is_some());

    let other = [("VOLANT_API_ALLOW_CIDR", "10.0.0.0/8")];
    let daemon = Daemon::start_on_tcp(Namespace::new(), &other);
    get(&daemon, "/healthz", &[]).is_problem(403, "forbidden");
}
