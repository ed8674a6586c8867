//! Ctrl-C and SIGTERM: the first asks, the second ends.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// A number that becomes the signal's when one comes. The run then finishes its step and saves; a second signal ends
/// the program at once, with exit code 128 + signal.
pub(super) fn listen() -> Result<Arc<AtomicUsize>> {
    let stop = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that the first signal finds `asked` false.
        register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
            .and_then(|_| register(signal, Arc::clone(&asked)))
            .and_then(|_| register_usize(signal, Arc::clone(&stop), signal.unsigned_abs() as usize))
            .map_err(|error| Error::failed(format!("cannot listen for signal {signal}: {error}")))?;
    }
    Ok(stop)
}
