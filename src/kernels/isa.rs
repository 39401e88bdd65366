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
    AmxAlways, "amx-always", "x86_64", Kind::Avx512Vnni.detected() && has_tiles();
    Amx, "amx", "x86_64", Kind::AmxAlways.detected();
    NeonDotprod, "neon-dotprod", "aarch64", has!("neon") && has!("dotprod");
    NeonI8mm, "neon-i8mm", "aarch64", Kind::NeonDotprod.detected() && has!("i8mm");
}

/// Whether there are tiles of bf16 and the system lets this process use them, which Linux wants to
/// be asked for: their state is 8 KiB a thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
fn has_tiles() -> bool {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24; // of leaf 7
    const TILES: u32 = 1 << 17 | 1 << 18; // configuration and data
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
    // SAFETY: the instruction is there where AVX-512 is, and so is the leaf.
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    let enabled: u32;
    // SAFETY: as for AVX-512, which the standard library has found by the same instruction.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nostack)) };
    // SAFETY: the call only changes what this process may do.
    let permitted =
        || unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 };
    features & BF16_AND_TILES == BF16_AND_TILES && enabled & TILES == TILES && permitted()
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_tiles() -> bool {
    false
}

/// See [`Isa::least_tile_rows`].
#[cfg(target_arch = "x86_64")]
const LEAST_TILE_ROWS: usize = 16;

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

    /// The number of rows from which on a pass takes tiles ([`super::matmul_tiles`]), where there
    /// are any. With fewer, making the weights bf16 costs more than it saves. It is the same on
    /// every machine, so that the bits of a result depend on neither time nor threads.
    pub fn least_tile_rows(self) -> Option<usize> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => Some(LEAST_TILE_ROWS),
            #[cfg(target_arch = "x86_64")]
            Kind::AmxAlways => Some(1),
            _ => None,
        }
    }

    /// For passes over several canvases that are run as one: each must get what it would get
    /// alone, so that the rows of one decide, and few of each are many together. So tiles take them
    /// all, where there are any.
    #[must_use]
    pub fn of_several(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self.0 == Kind::Amx {
            return Self(Kind::AmxAlways);
        }
        self
    }

    /// What a pass of so many rows computes with: tiles in all of its products, or in none.
    #[must_use]
    pub(crate) fn for_rows(self, rows: usize) -> Self {
        match self.least_tile_rows() {
            Some(least) if rows < least => self.without_tiles(),
            _ => self,
        }
    }

    fn without_tiles(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self.has_tiles() {
            return Self(Kind::Avx512Vnni);
        }
        self
    }

    /// Whether products take tiles.
    pub fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::AmxAlways | Kind::Amx => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::AvxVnni | Kind::Avx512Vnni => false,
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotprod | Kind::NeonI8mm => false,
            Kind::Scalar => false,
        }
    }

    /// Its name: `scalar`, `avx2`, `avxvnni`, `avx512vnni`, `amx-always`, `amx`, `neon-dotprod` or
    /// `neon-i8mm`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether a register holds 16 floats, and there are 32 of them.
    pub(super) fn has_wide_registers(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni | Kind::AmxAlways | Kind::Amx => true,
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
pub(super) trait Portable<T = ()> {
    fn run(self) -> T;
}

/// Runs `code` with the registers and fused products of `isa`.
#[allow(unsafe_code)]
pub(super) fn run<T>(isa: Isa, code: impl Portable<T>) -> T {
    match isa.0 {
        Kind::Scalar => code.run(),
        // SAFETY: an `Isa` of this kind exists only where `Kind::detected` found every feature that
        // the function enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::AvxVnni => unsafe { run_avx2(code) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni | Kind::AmxAlways | Kind::Amx => unsafe { run_avx512(code) },
        // Every CPU of this architecture has NEON: the code is compiled for it already.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonDotprod | Kind::NeonI8mm => code.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<T>(code: impl Portable<T>) -> T {
    code.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn run_avx512<T>(code: impl Portable<T>) -> T {
    code.run()
}
