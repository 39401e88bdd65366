//! Web addresses: who answers at one, where a relative one leads, and what of one may be shown.

use ureq::http::Uri;

/// Scheme, host and port: what decides who sees the token.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Origin {
    pub(super) is_https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// `None` if it is not a whole http address.
    pub(super) fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_lowercase();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Some(Self {
            is_https,
            host,
            port,
        })
    }

    /// A change from http to https, each on its own port, stays on the host.
    pub(super) fn is_same_host(&self, target: &Self) -> bool {
        let is_upgrade = (self.is_https, self.port) == (false, 80)
            && (target.is_https, target.port) == (true, 443);
        self == target || (is_upgrade && self.host == target.host)
    }
}

/// RFC 3986, section 5.2: an address relative to another.
pub(super) fn join(base: &str, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let base = without_query(base);
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let origin_end = base[scheme_end..]
        .find('/')
        .map_or(base.len(), |at| scheme_end + at);
    let (origin, path) = base.split_at(origin_end);
    let has_scheme = location
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}{location}", &base[..scheme_end.saturating_sub(2)])
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else if location.starts_with('?') {
        format!("{base}{location}")
    } else {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let (relative, query) = location.split_at(location.find('?').unwrap_or(location.len()));
        let mut parts: Vec<&str> = folder.split('/').skip(1).collect();
        for part in relative.split('/').filter(|part| *part != ".") {
            match part {
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("{origin}/{}{query}", parts.join("/"))
    }
}

/// Signatures of signed addresses are nobody's business.
pub(super) fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// An address as it may be shown: without the name and password of a mirror too.
pub(super) fn shown(url: &str) -> String {
    let url = without_query(url);
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_passwords_nor_signatures_are_shown() {
        for (url, wanted) in [
            ("https://a:b@host:8/x?sig=1", "https://host:8/x"),
            ("http://a:b@c@host", "http://host"),
            ("https://host/a@b", "https://host/a@b"),
            ("a:b@host", "host"),
        ] {
            assert_eq!(shown(url), wanted);
        }
    }

    #[test]
    fn addresses_are_joined_as_browsers_do() {
        let base = "https://hub/o/r/resolve/c/a.json?x=1";
        for (location, expected) in [
            ("http://cdn/x?s=1#top", "http://cdn/x?s=1"),
            ("//cdn/x", "https://cdn/x"),
            ("/api/x?y=/z:1", "https://hub/api/x?y=/z:1"),
            ("b.json?to=../c", "https://hub/o/r/resolve/c/b.json?to=../c"),
            ("../.././d", "https://hub/o/r/d"),
            ("../../../../../../d", "https://hub/d"),
            ("?y=2", "https://hub/o/r/resolve/c/a.json?y=2"),
            ("file:///etc/passwd", "file:///etc/passwd"),
        ] {
            assert_eq!(join(base, location), expected, "{location}");
        }
        assert_eq!(join("http://hub", "x"), "http://hub/x");
    }

    #[test]
    fn a_host_is_the_same_by_a_more_secure_way_only() {
        let is_same = |a: &str, b: &str| {
            Origin::of(a)
                .expect(a)
                .is_same_host(&Origin::of(b).expect(b))
        };
        assert!(is_same("http://Hub/a", "http://hub:80/b"));
        assert!(is_same("http://hub/a", "https://hub/a"));
        for (a, b) in [
            ("https://hub", "http://hub"),
            ("http://hub:8080", "https://hub"),
            ("https://hub", "https://hub:8443"),
            ("https://hub", "https://hub.evil.example"),
            ("https://hub", "https://hub@evil.example"),
        ] {
            assert!(!is_same(a, b), "{a} {b}");
        }
        for address in ["", "hub", "/hub", "ftp://hub", "http://", "http://[broken"] {
            assert_eq!(Origin::of(address), None, "{address}");
        }
    }
}
