//! The types that `cubecl-cuda` names of cubecl's LLVM back end, so that CUDA builds can be type-checked where the LLVM that
//! its build script downloads cannot be had. It compiles no kernel: asked to, it says so.

use core::ffi::c_char;
use core::fmt;

use cubecl_core::Compiler;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::CompilationError;
use cubecl_runtime::kernel::BufferIOAttr;

/// For which processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// This machine's.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Nvptx,
}

/// In place of the compiler.
#[derive(Debug, Clone, Default)]
pub struct PlironCompiler {
    /// For which processor.
    pub target: LlvmTarget,
}

/// What the compiler would be told.
#[derive(Debug, Clone, Default)]
pub struct PlironOptions {
    /// Unused here.
    pub arch: Option<()>,
    /// The GPU's architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of the assembly language.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether arguments are grid constants.
    pub grid_constants: bool,
    /// Lets callers end with `..Default::default()`.
    pub unused: (),
}

/// A compiled GPU module.
#[derive(Debug, Clone)]
pub struct NvptxModule {
    /// Assembly text.
    pub ptx: Vec<c_char>,
    /// The kernel's name.
    pub entrypoint: String,
    /// LLVM's own text.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// How buffers are used.
    pub io: Vec<BufferIOAttr>,
}

/// What a compiler would make.
#[derive(Clone)]
pub enum PlironArtifact {
    /// GPU code.
    NvptxCode(NvptxModule),
    /// Anything else.
    Other,
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing: this build has no LLVM")
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let reason = "this build is for type-checking and has no LLVM: build without scripts/cuda-offline".to_owned();
        Err(CompilationError::Generic { reason, backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// NVIDIA's assembly language.
pub mod nvptx {
    /// Its versions.
    pub mod ptx_version {
        use core::fmt;

        /// A version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// The newest that a driver takes: none is known here.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// What processors share.
pub mod shared {
    /// Features that are lowered for processors without them.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A kind of GPU.
        #[derive(Debug, Clone, Copy)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Would withdraw features that the target lacks.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}
