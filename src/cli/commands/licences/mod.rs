//! `diffucoder licences`: on what terms this program and what is built into it may be used.

use crate::cli::terminal::ui::Ui;

/// Our own, which is also that of most dependencies.
const APACHE: &str = include_str!("../../../../LICENSE");
/// Every crate and its licence; then the texts that are not Apache-2.0. A script writes it:
/// `.github/release/licences.py`.
const THIRD_PARTY: &str = include_str!("third-party.txt");

/// Prints them.
pub fn run(ui: &Ui) -> anyhow::Result<()> {
    Ok(ui.result(format!(
        "diffucoder and the model that is built into it: Apache-2.0, whose text comes first. Then what the\n\
         program is made of, or made with, and under which licence; then the texts of the others.\n\n\
         {APACHE}\n{THIRD_PARTY}"
    ))?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A crate of Cargo.lock.
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
        #[serde(default)]
        dependencies: Vec<String>,
    }

    fn read(name: &str) -> toml::Table {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::read_to_string(path).unwrap().parse().unwrap()
    }

    /// The names under `[dependencies]` and the like, not `[dev-dependencies]`.
    fn direct(manifest: &toml::Table) -> BTreeSet<String> {
        let targets = manifest["target"].as_table().unwrap().values();
        let tables = targets.chain([&manifest["dependencies"]]);
        let names = tables.flat_map(|table| {
            let inner = table.get("dependencies").unwrap_or(table);
            inner.as_table().unwrap().keys().cloned()
        });
        names.collect()
    }

    /// The notice is no older than Cargo.lock.
    #[test]
    fn every_dependency_is_named_with_a_licence() {
        let direct = direct(&read("Cargo.toml"));
        let lock = read("Cargo.lock")["package"].clone();
        let packages: Vec<Package> = lock.try_into().unwrap();
        let mut by_name: HashMap<&str, Vec<&Package>> = HashMap::new();
        for package in &packages {
            by_name.entry(&package.name).or_default().push(package);
        }
        // `name`, or `name version` where there are several.
        let find = |reference: &str| -> Vec<&Package> {
            let (name, version) = reference.split_once(' ').unwrap_or((reference, ""));
            let mut found = by_name[name].clone();
            found.retain(|package| version.is_empty() || package.version == version);
            found
        };
        let mut waiting: Vec<&Package> = by_name["diffucoder"][0]
            .dependencies
            .iter()
            .filter(|reference| direct.contains(reference.split(' ').next().unwrap()))
            .flat_map(|reference| find(reference))
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(package) = waiting.pop() {
            if seen.insert((&package.name, &package.version)) {
                waiting.extend(package.dependencies.iter().flat_map(|next| find(next)));
            }
        }
        assert!(seen.len() > 200, "{}", seen.len());
        let lines: Vec<&str> = THIRD_PARTY.lines().collect();
        for (name, version) in seen {
            let named = format!("{name} {version}: ");
            assert!(
                lines
                    .iter()
                    .any(|line| line.starts_with(&named) && line.len() > named.len()),
                "{named}no line: run .github/release/licences.py"
            );
        }
    }
}
