//! One place that yields a model's files, whatever their source.

use super::error::HubError;
use super::foreign::Foreign;
use super::gguf;
use super::options::HubOptions;
use super::registry;
use super::repo::HubRepo;
use super::spec::{ModelSpec, check_name};
use super::transfer::Progress;
use std::path::{Path, PathBuf};

/// Names and contents of the files that make up the built-in model.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// Where one file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFile {
    /// On disk.
    Path(PathBuf),
    /// In the program.
    Embedded(&'static [u8]),
}

/// A model's files at one version.
#[derive(Debug)]
pub struct Snapshot(Source);

#[derive(Debug)]
enum Source {
    Embedded { name: String, files: EmbeddedFiles },
    Folder(PathBuf),
    Hub(Box<HubRepo>),
}

impl Snapshot {
    /// Finds the model. For the Hub this resolves the revision, over the network only if the cache
    /// cannot; `builtin` are the files of the built-in model.
    ///
    /// # Errors
    /// Says that the folder is missing or no model, or why the repository cannot be had.
    pub fn open(
        spec: &ModelSpec,
        builtin: EmbeddedFiles,
        options: &HubOptions,
    ) -> Result<Self, HubError> {
        match spec {
            ModelSpec::BuiltIn(model) => Ok(Self::embedded(model.alias, builtin)),
            ModelSpec::Local(path) => Self::folder(path),
            ModelSpec::Hub(model) => {
                HubRepo::open(&model.id, options).map(|repo| Self(Source::Hub(Box::new(repo))))
            }
        }
    }

    /// A model whose files are part of the program.
    pub(crate) fn embedded(name: &str, files: EmbeddedFiles) -> Self {
        Self(Source::Embedded {
            name: name.to_owned(),
            files,
        })
    }

    /// Finds what is to be merged into a model, which need not be a model itself.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn adapter(spec: &ModelSpec, options: &HubOptions) -> Result<Self, HubError> {
        match spec {
            ModelSpec::Local(path) => Self::any_folder(path),
            _ => Self::open(spec, &[], options),
        }
    }

    fn any_folder(path: &Path) -> Result<Self, HubError> {
        let path = path.to_owned();
        if !path.exists() {
            return Err(HubError::FolderNotFound { path });
        }
        if !path.is_dir() {
            return Err(HubError::NotAFolder { path });
        }
        Ok(Self(Source::Folder(path)))
    }

    fn folder(path: &Path) -> Result<Self, HubError> {
        let snapshot = Self::any_folder(path)?;
        // A GGUF file has everything in it.
        if gguf::candidates(&snapshot.folder_files("")).is_empty() {
            let config = snapshot.required("config.json", &mut ());
            config.map_err(|error| snapshot.explain(error))?;
        }
        Ok(snapshot)
    }

    /// A small file that the model may lack. Offline, a file that is not in the cache counts as
    /// lacking.
    ///
    /// # Errors
    /// `UnsafeName`, or why the download failed.
    pub fn optional(
        &self,
        name: &str,
        progress: &mut dyn Progress,
    ) -> Result<Option<ModelFile>, HubError> {
        check_name(name)?;
        match &self.0 {
            Source::Embedded { files, .. } => Ok(files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| ModelFile::Embedded(bytes))),
            Source::Folder(folder) => Ok(Some(folder.join(name))
                .filter(|path| path.is_file())
                .map(ModelFile::Path)),
            Source::Hub(repo) => Ok(repo.optional(name, progress)?.map(ModelFile::Path)),
        }
    }

    /// A small file without which the model is none.
    ///
    /// # Errors
    /// Those of `optional`; `NotInFolder`, `NotCached` or `FileNotFound` if it is lacking.
    pub fn required(&self, name: &str, progress: &mut dyn Progress) -> Result<ModelFile, HubError> {
        match self.optional(name, progress)? {
            Some(file) => Ok(file),
            None => match &self.0 {
                Source::Hub(repo) => Err(repo.lacks(name)),
                _ => Err(HubError::NotInFolder {
                    model: self.describe(),
                    file: name.to_owned(),
                }),
            },
        }
    }

    /// The weights, in the order of `names`: asks sizes, checks the disk, then downloads, resumes
    /// and verifies.
    ///
    /// # Errors
    /// Those of `required`, and `NotEnoughDisk` before the first byte.
    pub fn fetch(
        &self,
        names: &[String],
        progress: &mut dyn Progress,
    ) -> Result<Vec<ModelFile>, HubError> {
        match &self.0 {
            Source::Hub(repo) => Ok(repo
                .fetch(names, progress)?
                .into_iter()
                .map(ModelFile::Path)
                .collect()),
            _ => names
                .iter()
                .map(|name| self.required(name, progress))
                .collect(),
        }
    }

    /// The GGUF file that is the model of a Hub repository or a folder, or all parts of it, by its
    /// name or its quantization; `None` where the model is safetensors. Asks the Hub for its list
    /// of files unless the cache can tell.
    ///
    /// # Errors
    /// `ChooseGguf`, `ChooseInFolder` or `NoSuchGguf` with the files that there are,
    /// `PartsMissing`, or why the Hub could not be asked.
    pub fn gguf(&self, wanted: Option<&str>) -> Result<Option<Vec<String>>, HubError> {
        let folder = match &self.0 {
            Source::Hub(repo) => return repo.gguf(wanted),
            Source::Embedded { .. } => return Ok(None),
            Source::Folder(folder) => folder,
        };
        let mut files = self.folder_files("");
        if !files.iter().any(|file| file == "config.json") {
            // Safetensors alone are no model.
            files.retain(|file| !file.ends_with(".safetensors"));
        }
        let chosen = gguf::choose(&self.describe(), &files, wanted);
        let chosen = chosen.map_err(|error| match error {
            HubError::ChooseGguf { files, .. } => HubError::ChooseInFolder {
                folder: folder.clone(),
                files,
            },
            error => error,
        })?;
        if let Some(chosen) = &chosen {
            gguf::check_all_there(&self.describe(), chosen, &files)?;
        }
        Ok(chosen)
    }

    /// The error that a file is lacking, or, where the model is of a form that is not read here,
    /// the one that says so.
    pub fn explain(&self, error: HubError) -> HubError {
        let is_lacking = matches!(
            error,
            HubError::NotInFolder { .. } | HubError::FileNotFound { .. }
        );
        let form = is_lacking.then(|| match &self.0 {
            Source::Hub(repo) => Foreign::of_files(&repo.listed()),
            _ => Foreign::of_files(&self.folder_files("")),
        });
        match form.flatten() {
            Some(form) => HubError::Foreign {
                model: self.describe(),
                form,
            },
            None => error,
        }
    }

    /// Names of the files in a folder that end in `ending`; none for other sources, whose files are
    /// fetched by name.
    pub fn folder_files(&self, ending: &str) -> Vec<String> {
        let Source::Folder(folder) = &self.0 else {
            return Vec::new();
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    }

    /// The commit, for a model from the Hub.
    pub fn commit(&self) -> Option<&str> {
        match &self.0 {
            Source::Hub(repo) => Some(&repo.commit),
            _ => None,
        }
    }

    /// The model's name and version in a few words: `owner/name@0123abcd`, a folder, or a built-in
    /// name.
    pub fn describe(&self) -> String {
        match &self.0 {
            Source::Embedded { name, .. } => registry::built_in(name),
            Source::Folder(folder) => folder.display().to_string(),
            Source::Hub(repo) => format!(
                "{}@{}",
                repo.id,
                repo.commit.get(..8).unwrap_or(&repo.commit)
            ),
        }
    }
}
