//! Where a guest's answer points a client to. Whatever is in the guest stays below the path that leads there: a workload must not make a
//! client that follows redirects repeat its request, with its token, on the daemon's own API. Pure.

use std::net::IpAddr;

use axum::http::header::{CONTENT_LOCATION, HeaderMap, HeaderName, LOCATION};
use axum::http::{HeaderValue, Uri};
use common::name::Name;
use reqwest::Url;

/// Fields that are one address each (RFC 9110 §10.2.2 and §8.7).
const POINTERS: [HeaderName; 2] = [LOCATION, CONTENT_LOCATION];

/// Where the client stands, and where the workload thinks that it does.
#[derive(Debug)]
pub(super) struct Vantage {
    pub(super) name: Name,
    /// The workload's own address, if it has one.
    pub(super) base_url: Option<String>,
    /// The guest's address.
    pub(super) guest: IpAddr,
    /// What the agent was asked for: `/v1/…`.
    pub(super) asked: Uri,
    /// The client's `Host`.
    pub(super) host: Option<String>,
    /// Whether the client may be sent to another host. One on the unix socket follows every address to the socket, and one that has its
    /// token in a header of Volant's own takes that along.
    pub(super) may_leave: bool,
}

impl Vantage {
    /// Makes every address in `headers` one that the client may follow. What cannot be is taken out.
    pub(super) fn redirect(&self, headers: &mut HeaderMap) {
        for name in POINTERS {
            let found = headers.remove(&name);
            let seen = found.and_then(|value| self.seen_from_here(value.to_str().ok()?));
            if let Some(value) = seen {
                headers.insert(name, value);
            }
        }
    }

    fn seen_from_here(&self, pointer: &str) -> Option<HeaderValue> {
        let base: Url = self.base_url.as_deref()?.parse().ok()?;
        let below = base.path().trim_end_matches('/').to_owned();
        let target = self.page(&base, &below).join(pointer).ok()?;
        if !matches!(target.scheme(), "http" | "https") {
            return None;
        }
        if !self.is_here(&target, &base) {
            let text = self.may_leave.then(|| target.to_string())?;
            return HeaderValue::try_from(text).ok();
        }
        // The parser has resolved every `..`, so that no client leaves the prefix.
        let path = target.path();
        let path = path
            .strip_prefix(&below)
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path);
        let mut text = format!("/api/v1/vms/{}/agent/v1{path}", self.name);
        for (mark, part) in [('?', target.query()), ('#', target.fragment())] {
            if let Some(part) = part {
                text.push(mark);
                text.push_str(part);
            }
        }
        HeaderValue::try_from(text).ok()
    }

    /// The address of what was asked for, as the workload knows it.
    fn page(&self, base: &Url, below: &str) -> Url {
        let path = self.asked.path();
        let mut page = base.clone();
        page.set_path(&format!(
            "{below}{}",
            path.strip_prefix("/v1").unwrap_or(path)
        ));
        page.set_query(self.asked.query());
        page
    }

    /// Whether an address is the workload's, or this daemon's, or means either of them on another port.
    fn is_here(&self, target: &Url, base: &Url) -> bool {
        let Some(host) = target.host_str() else {
            return true;
        };
        let bare = host.trim_matches(['[', ']']);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let address = address.to_canonical();
            if address.is_loopback() || address.is_unspecified() || address == self.guest {
                return true;
            }
        }
        // As a parser of addresses reads it: in lower case, and numbers in their one form.
        let own = self
            .host
            .as_deref()
            .and_then(|host| format!("http://{host}").parse::<Url>().ok());
        let own = own.as_ref().and_then(Url::host_str);
        let name = host.trim_end_matches('.');
        name == "localhost"
            || name.ends_with(".localhost")
            || Some(host) == base.host_str()
            || own.is_some_and(|own| own.trim_end_matches('.') == name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn vantage(base_url: &str) -> Vantage {
        Vantage {
            name: "web".parse().unwrap(),
            base_url: Some(base_url.to_owned()),
            guest: Ipv4Addr::new(192, 168, 127, 9).into(),
            asked: "/v1/a/b?x".parse().unwrap(),
            host: Some("Volant.example.com:7777".to_owned()),
            may_leave: true,
        }
    }

    fn seen(vantage: &Vantage, pointer: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(
            LOCATION,
            HeaderValue::from_bytes(pointer.as_bytes()).unwrap(),
        );
        vantage.redirect(&mut headers);
        let value = headers.get(LOCATION)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_in_the_guest_stays_below_its_path() {
        let prefix = "/api/v1/vms/web/agent/v1";
        let table = [
            ("/api/v1/vms/victim", "/api/v1/vms/victim"),
            ("/x?y=1#z", "/x?y=1#z"),
            ("c", "/a/c"),
            ("?y", "/a/b?y"),
            ("../../../../../../vms/victim", "/vms/victim"),
            ("/%2e%2e/%2e%2e/vms/victim", "/vms/victim"),
            ("\\\\127.0.0.1\\vms", "/vms"),
            ("http://127.0.0.1:8080/x", "/x"),
            ("http://localhost/api/v1/vms/victim", "/api/v1/vms/victim"),
            ("http://0x7f.1:7777/x", "/x"),
            ("http://[::ffff:127.0.0.1]/x", "/x"),
            ("http://192.168.127.9:8080/x", "/x"),
            (
                "//volant.example.com:7777/api/v1/vms/victim",
                "/api/v1/vms/victim",
            ),
            ("https://VOLANT.example.com./x", "/x"),
            ("", "/a/b?x"),
        ];
        for (pointer, expected) in table {
            let found = seen(&vantage("http://127.0.0.1:8080"), pointer);
            assert_eq!(found, Some(format!("{prefix}{expected}")), "{pointer}");
        }
        let below = vantage("http://app:8080/base/");
        for (pointer, expected) in [
            ("/base/x", "/x"),
            ("/base", "/base"),
            ("/basement", "/basement"),
            ("c", "/a/c"),
            ("http://app/base/x", "/x"),
        ] {
            assert_eq!(
                seen(&below, pointer),
                Some(format!("{prefix}{expected}")),
                "{pointer}"
            );
        }
    }

    #[test]
    fn only_some_clients_may_be_sent_elsewhere() {
        let free = vantage("http://127.0.0.1:8080");
        let elsewhere = "https://example.org/login?next=%2F";
        assert_eq!(seen(&free, elsewhere).as_deref(), Some(elsewhere));
        let bound = Vantage {
            may_leave: false,
            ..vantage("http://127.0.0.1:8080")
        };
        assert_eq!(seen(&bound, elsewhere), None);
        assert!(seen(&bound, "/x").is_some());
        for pointer in ["file:///etc/passwd", "javascript:x", "http://"] {
            assert_eq!(seen(&free, pointer), None, "{pointer}");
        }
        let mut two = HeaderMap::new();
        two.append(LOCATION, HeaderValue::from_static("/x"));
        two.append(LOCATION, HeaderValue::from_static("/api/v1/vms/victim"));
        free.redirect(&mut two);
        let all: Vec<_> = two.get_all(LOCATION).iter().collect();
        assert_eq!(all, ["/api/v1/vms/web/agent/v1/x"]);
    }

    proptest! {
        #[test]
        fn no_path_leads_to_the_api(pointer in "[/.%2eE\\\\a?#\t]{0,20}") {
            let bound = Vantage {
                may_leave: false,
                ..vantage("http://127.0.0.1:8080/base")
            };
            if let Some(found) = seen(&bound, &pointer) {
                prop_assert!(found.starts_with("/api/v1/vms/web/agent/v1/"), "{found}");
                let page: Url = "http://x/api/v1/vms/web/agent/v1/a/b".parse().unwrap();
                prop_assert!(page.join(&found).unwrap().path().starts_with("/api/v1/vms/web/agent/v1/"));
            }
        }
    }
}
