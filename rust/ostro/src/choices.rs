//! What builders let one choose from.

use std::path::{Path, PathBuf};

/// Families of models that see images; ostro runs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultimodalLoaderType {
    /// Gemma 3.
    Gemma3,
}

/// [`MultimodalLoaderType`] by its older name.
pub type VisionLoaderType = MultimodalLoaderType;

/// Accepted and without effect: weights keep the file's number format, sums are float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ModelDType {
    /// Whatever fits.
    #[default]
    Auto,
    /// bfloat16.
    BF16,
    /// float16.
    F16,
    /// float32.
    F32,
}

impl ModelDType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// Where a token for the model hub comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenSource {
    /// This one.
    Literal(String),
    /// An environment variable.
    EnvVar(String),
    /// A file.
    Path(String),
    /// Where the hub's own tools keep it.
    CacheToken,
    /// Nowhere.
    None,
}

impl TokenSource {
    pub(crate) fn spelled(self) -> String {
        match self {
            Self::Literal(token) => format!("literal:{token}"),
            Self::EnvVar(name) => format!("env:{name}"),
            Self::Path(path) => format!("path:{path}"),
            Self::CacheToken => "cache".into(),
            Self::None => "none".into(),
        }
    }
}

/// A YAML file that says which layers get which number format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology(pub(crate) PathBuf);

impl Topology {
    /// Names the file; it is read when the model is loaded.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn from_path(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        anyhow::ensure!(path.is_file(), "there is no topology file {}", path.display());
        Ok(Self(path.to_path_buf()))
    }
}
