//! Which authorities are trusted.

use super::error::HubError;
use super::options::CaSource;
use std::fs;
use std::io;
use std::path::Path;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Mozilla's authorities, the system's, and those that variables name.
pub(super) fn roots(sources: &[CaSource]) -> Result<Vec<Certificate<'static>>, HubError> {
    let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    let mut roots: Vec<_> = built_in
        .map(|root| Certificate::from_der(root).to_owned())
        .collect();
    // Best effort: the built-in ones are enough for the Hub.
    let system = rustls_native_certs::load_native_certs().certs;
    roots.extend(
        system
            .iter()
            .map(|root| Certificate::from_der(root).to_owned()),
    );
    for CaSource { variable, paths } in sources {
        let mut problem = io::Error::other("it holds no certificate in PEM form");
        let known = roots.len();
        for path in paths {
            match certificates(path) {
                Ok(certificates) => roots.extend(certificates),
                Err(error) => problem = error,
            }
        }
        if roots.len() == known {
            let path = paths.first().cloned().unwrap_or_default();
            return Err(HubError::CaSource {
                variable,
                path,
                source: problem,
            });
        }
    }
    Ok(roots)
}

/// The certificates in a file, or in the files of a folder.
fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let pem = if path.is_dir() {
        let files = fs::read_dir(path)?
            .flatten()
            .filter_map(|entry| fs::read(entry.path()).ok());
        files.collect::<Vec<_>>().join(&b'\n')
    } else {
        fs::read(path)?
    };
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    Ok(parse_pem(&pem).filter_map(certificate).collect())
}
