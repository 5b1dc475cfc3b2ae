//! Which model is loaded, and how.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;

use crate::choices::{ModelDType, MultimodalLoaderType, TokenSource, Topology, VisionLoaderType};
use crate::door;
use crate::isq::{IsqBits, IsqName};
use crate::model::{Loaded, Model};
use crate::value::{Value, dict};

/// What a builder has gathered: arguments of Python's `Which.*` and `Runner`, which judge them.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    kind: &'static str,
    which: Vec<(&'static str, Value)>,
    runner: Vec<(&'static str, Value)>,
    logging: bool,
}

impl Settings {
    fn new(kind: &'static str, which: Vec<(&'static str, Value)>) -> Self {
        // As in mistral.rs; Python's Runner follows that project's older 16.
        Self { kind, which, runner: vec![("max_seqs", Value::Integer(32))], logging: false }
    }

    pub(crate) async fn load(self) -> crate::Result<Model> {
        let start = move |module: &Bound<'_, PyModule>| {
            let py = module.py();
            if self.logging {
                module.call_method0("log_to_stderr")?;
            }
            let arguments = (module.getattr("load")?, self.kind, dict(py, &self.which)?, dict(py, &self.runner)?);
            Ok(module.getattr("workers")?.call_method1("submit", arguments)?.unbind())
        };
        door::submit(true, start, |host| Loaded::of(host).map(Model::over)).await
    }
}

macro_rules! builder {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$own_doc:meta])* pub fn $own:ident($($arguments:tt)*) -> Self $body:block)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[must_use = "a builder loads nothing before `build`"]
        pub struct $name(Settings);

        impl $name {
            $($(#[$own_doc])* pub fn $own($($arguments)*) -> Self $body)*

            /// Load the model, without blocking the runtime.
            ///
            /// # Errors
            /// An [`ostro::Error`](crate::Error), which `downcast_ref` gets back: `Setup`, `ModelLoad` or, for the
            /// arguments, `RequestValidation`.
            pub async fn build(self) -> anyhow::Result<Model> {
                Ok(self.0.load().await?)
            }

            /// Quantize while loading, to an [`IsqType`](crate::IsqType) or a name as on the command line.
            pub fn with_isq(self, isq: impl Into<IsqName>) -> Self {
                self.runner("in_situ_quant", isq.into().0)
            }

            /// Quantize while loading, to the number format that suits so many bits.
            pub fn with_auto_isq(self, bits: IsqBits) -> Self {
                self.with_isq(bits)
            }

            /// Whether quantization takes in what sees images; it does unless told otherwise (ostro only).
            pub fn with_isq_vision(self, isq_vision: bool) -> Self {
                self.runner("isq_vision", isq_vision)
            }

            /// A folder in which quantized weights are kept for the next start (ostro only).
            pub fn with_isq_cache(self, folder: PathBuf) -> Self {
                self.runner("isq_cache", folder)
            }

            /// Which layers get which number format, over what `with_isq` says.
            pub fn with_topology(self, topology: Topology) -> Self {
                self.which("topology", topology.0)
            }

            /// `with_topology` of a file.
            ///
            /// # Errors
            /// If there is no such file.
            pub fn with_topology_from_path(self, path: impl AsRef<Path>) -> anyhow::Result<Self> {
                Ok(self.with_topology(Topology::from_path(path)?))
            }

            /// Which columns matter: a file as llama.cpp measures and writes it.
            pub fn with_imatrix(self, path: PathBuf) -> Self {
                self.which("imatrix", path)
            }

            /// A text on which to measure which columns matter.
            pub fn with_calibration_file(self, path: PathBuf) -> Self {
                self.which("calibration_file", path)
            }

            /// Where to write the quantized model, `FOLDER/NAME.uqff`.
            pub fn write_uqff(self, path: PathBuf) -> Self {
                self.which("write_uqff", path)
            }

            /// Log to stderr what happens from the level INFO on.
            pub fn with_logging(mut self) -> Self {
                self.0.logging = true;
                self
            }

            /// See [`ModelDType`].
            pub fn with_dtype(self, dtype: ModelDType) -> Self {
                self.which("dtype", dtype.name())
            }

            /// Sequences generated side by side, 32 unless told otherwise; more wait for a place.
            pub fn with_max_num_seqs(self, max_num_seqs: usize) -> Self {
                self.runner("max_seqs", max_num_seqs)
            }

            /// Without effect, and said so in the log when it is not 16.
            pub fn with_prefix_cache_n(self, n_seqs: Option<usize>) -> Self {
                self.runner("prefix_cache_n", n_seqs)
            }

            /// Jinja text, or a `.jinja` or `.json` file, instead of the model's own template.
            pub fn with_chat_template(self, chat_template: impl ToString) -> Self {
                self.runner("chat_template", chat_template.to_string())
            }

            /// As `with_chat_template`, and stronger.
            pub fn with_jinja_explicit(self, jinja_explicit: String) -> Self {
                self.runner("jinja_explicit", jinja_explicit)
            }

            /// The path of another tokenizer.
            pub fn with_tokenizer_json(self, tokenizer_json: impl ToString) -> Self {
                self.which("tokenizer_json", tokenizer_json.to_string())
            }

            /// See [`TokenSource`]; without it `TokenSource::CacheToken`.
            pub fn with_token_source(self, token_source: TokenSource) -> Self {
                self.runner("token_source", token_source.spelled())
            }

            /// Branch, tag or commit on the hub.
            pub fn with_hf_revision(self, revision: impl ToString) -> Self {
                self.which("revision", revision.to_string())
            }

            /// Where files of the hub are kept.
            pub fn from_hf_cache_path(self, path: PathBuf) -> Self {
                self.which("hf_cache_path", path)
            }

            /// `from_hf_cache_path` by its older name.
            pub fn from_hf_cache_pathf(self, path: PathBuf) -> Self {
                self.from_hf_cache_path(path)
            }

            /// Longest prompt plus answer in tokens, at most what the model was trained for.
            pub fn with_max_model_len(self, max_model_len: usize) -> Self {
                self.runner("context_length", max_model_len)
            }

            /// Prompt tokens of a step, over all sequences.
            pub fn with_prompt_chunksize(self, prompt_chunksize: NonZeroUsize) -> Self {
                self.runner("prompt_batchsize", prompt_chunksize.get())
            }

            /// Without effect: the engine runs on the CPU.
            pub fn with_force_cpu(self) -> Self {
                self
            }

            /// Threads of the kernels; 0 for all that this process may use (ostro only).
            pub fn with_threads(self, threads: usize) -> Self {
                self.runner("threads", threads)
            }

            /// Makes requests repeatable that bring no seed (ostro only).
            pub fn with_seed(self, seed: i64) -> Self {
                self.runner("seed", seed)
            }

            /// Activations: `auto`, `int8`, `int14`, `mixed` or `f32` (ostro only).
            pub fn with_compute(self, compute: impl ToString) -> Self {
                self.runner("compute", compute.to_string())
            }

            /// Keys and values of the context: `f16`, `int8` or `f32` (ostro only).
            pub fn with_kv_dtype(self, kv_dtype: impl ToString) -> Self {
                self.runner("kv_dtype", kv_dtype.to_string())
            }

            /// Ceiling of the memory for keys and values, in bytes (ostro only).
            pub fn with_kv_bytes(self, kv_bytes: usize) -> Self {
                self.runner("kv_bytes", kv_bytes)
            }

            /// Requests that may wait for a place; others are refused (ostro only).
            pub fn with_max_waiting(self, max_waiting: usize) -> Self {
                self.runner("max_waiting", max_waiting)
            }

            /// Leaves weights in their file, whose memory processes share, instead of moving them to where they are read
            /// fastest (ostro only).
            pub fn without_repack(self) -> Self {
                self.runner("repack", false)
            }

            fn which(mut self, name: &'static str, value: impl Into<Value>) -> Self {
                self.0.which.push((name, value.into()));
                self
            }

            fn runner(mut self, name: &'static str, value: impl Into<Value>) -> Self {
                self.0.runner.push((name, value.into()));
                self
            }
        }

        impl From<$name> for crate::blocking::AnyBuilder {
            fn from(builder: $name) -> Self {
                Self(builder.0)
            }
        }
    };
}

macro_rules! seeing_builder {
    ($(#[$doc:meta])* $name:ident { $($new:tt)* }) => {
        builder! {
            $(#[$doc])*
            $name {
                $($new)*

                /// The model's family; without it the files say it.
                pub fn with_loader_type(self, loader_type: MultimodalLoaderType) -> Self {
                    let MultimodalLoaderType::Gemma3 = loader_type;
                    self.which("arch", "gemma3")
                }

                /// UQFF files in the folder or repository, one of a model's or all.
                pub fn from_uqff(self, files: Vec<PathBuf>) -> Self {
                    self.which("from_uqff", files)
                }

                /// Accepted, without effect for Gemma 3's fixed image size.
                pub fn with_max_edge(self, max_edge: u32) -> Self {
                    self.which("max_edge", i64::from(max_edge))
                }

                /// `with_max_edge` by its older name.
                pub fn from_max_edge(self, max_edge: u32) -> Self {
                    self.with_max_edge(max_edge)
                }

                /// Bytes of encoded images kept for later requests.
                pub fn with_encoder_cache_memory_bytes(self, max_bytes: usize) -> Self {
                    self.runner("image_cache_bytes", max_bytes)
                }

                /// Show oblong images in crops as well, unless a request says otherwise (ostro only).
                pub fn with_pan_and_scan(self, pan_and_scan: bool) -> Self {
                    self.runner("pan_and_scan", pan_and_scan)
                }
            }
        }
    };
}

seeing_builder! {
    /// A model that may see images, in the older form with the loader type as second argument.
    ///
    /// The second argument is a [`VisionLoaderType`] or `None`; Rust has no optional ones. The newer form with one
    /// argument is [`MultimodalModelBuilder`].
    VisionModelBuilder {
        /// model: a folder, a hub id or the path of a GGUF file.
        pub fn new(model: impl ToString, loader_type: impl Into<Option<VisionLoaderType>>) -> Self {
            let builder = Self(Settings::new("multimodal", vec![("model_id", model.to_string().into())]));
            match loader_type.into() {
                Some(loader_type) => builder.with_loader_type(loader_type),
                None => builder,
            }
        }
    }
}

seeing_builder! {
    /// A model that may see images.
    MultimodalModelBuilder {
        /// model: a folder, a hub id or the path of a GGUF file.
        pub fn new(model: impl ToString) -> Self {
            Self(Settings::new("multimodal", vec![("model_id", model.to_string().into())]))
        }
    }
}

builder! {
    /// A model that reads text. One that could see is loaded with its eyes all the same.
    TextModelBuilder {
        /// model: a folder, a hub id or the path of a GGUF file.
        pub fn new(model: impl ToString) -> Self {
            Self(Settings::new("plain", vec![("model_id", model.to_string().into())]))
        }

        /// UQFF files in the folder or repository, one of a model's or all.
        pub fn from_uqff(self, files: Vec<PathBuf>) -> Self {
            self.which("from_uqff", files)
        }
    }
}

builder! {
    /// A GGUF file of a folder or hub id.
    GgufModelBuilder {
        /// model: a folder or hub id. files: the file's name, or the names of a split file.
        pub fn new(model: impl ToString, files: Vec<impl ToString>) -> Self {
            let files: Vec<_> = files.iter().map(ToString::to_string).collect();
            let which = vec![("quantized_model_id", model.to_string().into()), ("quantized_filename", files.into())];
            Self(Settings::new("gguf", which))
        }

        /// A folder or hub id whose tokenizer is used instead of the file's own.
        pub fn with_tok_model_id(self, tok_model_id: impl ToString) -> Self {
            self.which("tok_model_id", tok_model_id.to_string())
        }

        /// The file with the image half: a name beside the model, or a path.
        pub fn with_mmproj_files(self, files: Vec<impl ToString>) -> Self {
            let files: Vec<_> = files.iter().map(ToString::to_string).collect();
            self.which("mmproj_filename", files)
        }
    }
}
