//! The tile registers of AMX: whether this process may use them, and for how long a thread has them.
//!
//! Intel, Architecture Instruction Set Extensions Programming Reference, chapter 3.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether the CPU has AMX-BF16, and the system lets this process use it: it is asked once.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| is_built_in() && is_permitted())
}

#[cfg(target_arch = "x86_64")]
fn is_built_in() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let leaves = std::arch::x86_64::__cpuid(0).eax;
    let features = if leaves < 7 { 0 } else { std::arch::x86_64::__cpuid_count(7, 0).edx };
    features & AMX_BF16 != 0 && features & AMX_TILE != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn is_built_in() -> bool {
    false
}

/// Asks for the registers, for all threads of the process: their 8 KiB are part of what the system saves of a thread.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn is_permitted() -> bool {
    const SYS_ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut result = SYS_ARCH_PRCTL;
    // SAFETY: the system call of Documentation/arch/x86/xstate.rst. It touches no memory, and clobbers these registers.
    unsafe {
        asm!("syscall", inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn is_permitted() -> bool {
    false
}

/// What the registers are configured with.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Configuration([u8; 64]);

/// Palette 1, eight tiles: from byte 16 on their bytes a row, in two bytes each, from byte 48 on their rows.
#[cfg(target_arch = "x86_64")]
static WHOLE: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Configuration(bytes)
};

thread_local! { static HOLDERS: Cell<usize> = const { Cell::new(0) }; }

/// While it lives, this thread's tile registers are eight tiles of 16 rows of 64 bytes. A thread that has none costs the
/// system nothing when it changes threads, so they are given back at the end of an op.
pub(super) struct Tiles {
    /// Of this thread alone.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Panics
    /// Where there are none: see [`is_available`].
    pub(super) fn hold() -> Self {
        assert!(is_available(), "this CPU has no AMX, or the system does not permit it");
        let holders = HOLDERS.get();
        if holders == 0 {
            // SAFETY: the registers are available (asserted), and the configuration is one that they can have.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(readonly, nostack));
            }
        }
        HOLDERS.set(holders + 1);
        Tiles { thread: PhantomData }
    }

    /// Whether this thread has them.
    pub(super) fn are_held() -> bool {
        HOLDERS.get() > 0
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        let holders = HOLDERS.get() - 1;
        HOLDERS.set(holders);
        if holders == 0 {
            // SAFETY: the registers were configured, and nobody on this thread needs them any more.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                asm!("tilerelease", options(nomem, nostack));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_tiles_while_anybody_holds_them() {
        if !is_available() {
            return;
        }
        assert!(!Tiles::are_held());
        let outer = Tiles::hold();
        drop(Tiles::hold());
        assert!(Tiles::are_held());
        assert!(!std::thread::spawn(Tiles::are_held).join().expect("it only looks"));
        drop(outer);
        assert!(!Tiles::are_held());
    }
}
