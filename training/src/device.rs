//! Which device computes: the one file that knows of CUDA.
//! It chooses and refuses; how fast a device is and how it computes is burn's business.

use std::fmt;
use std::str::FromStr;

/// The operator's choice, written `auto`, `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU where build and machine have one, else the processor.
    #[default]
    Auto,
    /// The processor, through burn's Flex backend. As many threads as `RAYON_NUM_THREADS` says, else one a core.
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let refuse = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => Ok(Self::Cuda(
                text.strip_prefix("cuda:")
                    .ok_or_else(refuse)?
                    .parse()
                    .map_err(|_| refuse())?,
            )),
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("`{0}` is not a device: write `auto`, `cpu` or `cuda:N`, where N is the GPU's number")]
    Unknown(String),
    /// The build knows no CUDA.
    #[error(
        "device {0} was asked for, but this build has no CUDA: build with `--features cuda`, or set the device to `cpu`"
    )]
    NoCudaInBuild(DeviceChoice),
    /// The machine has no such GPU.
    #[error("device {0} cannot be used on this machine ({1}): look at `nvidia-smi`, or set the device to `cpu`")]
    NoCudaOnMachine(DeviceChoice, String),
}

#[cfg(feature = "engine")]
impl DeviceChoice {
    /// What `auto` stands for on this machine, and a line for the operator where a GPU was hoped for in vain. Other choices
    /// stand for themselves, and are not tried out.
    pub fn resolved(self) -> (Self, Option<String>) {
        match self {
            Self::Auto if cfg!(feature = "cuda") => match Self::Cuda(0).open() {
                Ok(_) => (Self::Cuda(0), None),
                Err(error) => (Self::Cpu, Some(format!("computing on the processor: {error}"))),
            },
            Self::Auto => (Self::Cpu, None),
            chosen => (chosen, None),
        }
    }

    /// Burn's device, tried out where it is a GPU.
    pub fn open(&self) -> Result<burn::tensor::Device, DeviceError> {
        match self {
            Self::Auto => self.resolved().0.open(),
            Self::Cpu => Ok(burn::tensor::Device::flex()),
            Self::Cuda(index) => self.open_cuda(*index),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn open_cuda(&self, _: usize) -> Result<burn::tensor::Device, DeviceError> {
        Err(DeviceError::NoCudaInBuild(*self))
    }

    /// A missing driver or GPU shows as a panic inside of CUDA's bindings; it is turned into an error here, once, before
    /// anything was computed.
    #[cfg(feature = "cuda")]
    fn open_cuda(&self, index: usize) -> Result<burn::tensor::Device, DeviceError> {
        if cfg!(target_os = "linux") && !DRIVER_FILES.iter().any(|file| std::path::Path::new(file).exists()) {
            let reason = format!("there is no {}: no NVIDIA driver is loaded", DRIVER_FILES[0]);
            return Err(DeviceError::NoCudaOnMachine(*self, reason));
        }
        let probe = std::panic::catch_unwind(|| {
            let device = burn::tensor::Device::cuda(index);
            let sum = burn::tensor::Tensor::<1>::ones([8], &device).sum().into_scalar::<f32>();
            (device, sum)
        });
        match probe {
            Ok((device, sum)) if sum == 8.0 => Ok(device),
            Ok((_, sum)) => Err(DeviceError::NoCudaOnMachine(
                *self,
                format!("1 added eight times gave {sum}"),
            )),
            Err(_) => Err(DeviceError::NoCudaOnMachine(
                *self,
                "the driver or the GPU did not answer".to_owned(),
            )),
        }
    }
}

/// One of these is there where an NVIDIA driver is loaded: on Linux itself, and on Linux under Windows. Asked for first,
/// because CUDA's bindings answer a missing driver with a panic and its trace.
#[cfg(feature = "cuda")]
const DRIVER_FILES: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_back_from_their_printed_form() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["gpu", "cuda:", "cuda:x", "CPU ", ""] {
            assert_eq!(text.parse::<DeviceChoice>(), Err(DeviceError::Unknown(text.to_owned())));
        }
    }

    #[cfg(all(feature = "engine", not(feature = "cuda")))]
    #[test]
    fn auto_is_the_processor_in_a_build_without_cuda() {
        assert_eq!(DeviceChoice::Auto.resolved(), (DeviceChoice::Cpu, None));
        assert!(DeviceChoice::Auto.open().is_ok());
    }

    #[cfg(all(feature = "engine", not(feature = "cuda")))]
    #[test]
    fn cuda_in_a_build_without_it_is_a_clear_error() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
