//! Instruction sets: which ones there are, which of them this CPU has, and plain Rust compiled for
//! each.
//!
//! An [`Isa`] is a proof: only detection makes one, so that whoever holds one may call functions
//! that enable its features.
//!
//! A new instruction set is a line of the table below and a file of kernels. The compiler then asks
//! for its arms in [`run`] and in `matmul.rs`.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected as has;
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected as has;
use std::fmt;
use std::sync::LazyLock;

/// An instruction set that this CPU has. The field is private: holding one proves support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

/// Defines [`Kind`] by rows of kind, name, architecture and what a CPU must have, slowest first.
macro_rules! kinds {
    ($($kind:ident, $name:literal, $arch:literal, $detected:expr;)*) => {
        /// Every instruction set with kernels for this architecture.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            Scalar,
            $(#[cfg(target_arch = $arch)] $kind,)*
        }

        impl Kind {
            const ALL: &[Self] = &[Self::Scalar, $(#[cfg(target_arch = $arch)] Self::$kind,)*];

            fn name(self) -> &'static str {
                match self {
                    Self::Scalar => "scalar",
                    $(#[cfg(target_arch = $arch)] Self::$kind => $name,)*
                }
            }

            /// Whether this CPU has every feature that the kernels of this kind enable.
            fn detected(self) -> bool {
                match self {
                    Self::Scalar => true,
                    $(#[cfg(target_arch = $arch)] Self::$kind => $detected,)*
                }
            }
        }
    };
}

kinds! {
    Avx2, "avx2", "x86_64", has!("avx2") && has!("fma") && has!("f16c");
    AvxVnni, "avxvnni", "x86_64", Kind::Avx2.detected() && has!("avxvnni");
    Avx512Vnni, "avx512vnni", "x86_64", Kind::Avx2.detected()
        && has!("avx512f") && has!("avx512bw") && has!("avx512vnni");
    NeonDotprod, "neon-dotprod", "aarch64", has!("neon") && has!("dotprod");
    NeonI8mm, "neon-i8mm", "aarch64", Kind::NeonDotprod.detected() && has!("i8mm");
}

/// What this CPU can run, slowest first; looked up once.
static AVAILABLE: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let kinds = Kind::ALL.iter().filter(|kind| kind.detected());
    kinds.map(|&kind| Isa(kind)).collect()
});

impl Isa {
    /// Plain Rust, which runs everywhere.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// What this CPU can run, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        AVAILABLE.iter().copied()
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|isa| isa.name() == name)
    }

    /// Its name: `scalar`, `avx2`, `avxvnni`, `avx512vnni`, `neon-dotprod` or `neon-i8mm`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether a register holds 16 floats, and there are 32 of them.
    pub(super) fn has_wide_registers(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::AvxVnni => false,
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotprod | Kind::NeonI8mm => false,
            Kind::Scalar => false,
        }
    }

    /// For the dispatch to kernels.
    pub(super) fn kind(self) -> Kind {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Plain Rust, compiled once for each set of registers. `run` must be `#[inline(always)]`, and so
/// must all that it calls: only code inlined into a function with features is compiled for them.
/// `map` and `from_fn` of arrays are not in them: they leave a call in the loop, for each lane.
pub(super) trait Portable {
    fn run(self);
}

/// Runs `code` with the registers and fused products of `isa`.
#[allow(unsafe_code)]
pub(super) fn run(isa: Isa, code: impl Portable) {
    match isa.0 {
        Kind::Scalar => code.run(),
        // SAFETY: an `Isa` of this kind exists only where `Kind::detected` found every feature that
        // the function enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::AvxVnni => unsafe { run_avx2(code) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni => unsafe { run_avx512(code) },
        // Every CPU of this architecture has NEON: the code is compiled for it already.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonDotprod | Kind::NeonI8mm => code.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(code: impl Portable) {
    code.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn run_avx512(code: impl Portable) {
    code.run();
}
