//! Ctrl-C: the first asks a training to save and leave, the second ends the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
/// Trainings that would hear it.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Asks the trainings of this process to save a checkpoint and leave, as Ctrl-C does: for programs with a handler of their own.
///
/// ```
/// assert!(!fornax::train::interrupted());
/// fornax::train::interrupt();
/// assert!(fornax::train::interrupted());
/// ```
pub fn interrupt() {
    ASKED.store(true, Ordering::SeqCst);
}

/// Whether that was asked for: a loop of your own looks here after each step.
///
/// It stays so until a training begins.
pub fn interrupted() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Listens to Ctrl-C (and SIGTERM, which clusters send before they take a machine away) from now on, until what this returns is dropped. Meanwhile
/// the first sets [`interrupted`], the second ends the process with status 130. Without a listener Ctrl-C ends the process at once.
///
/// [`Trainer::fit`](super::Trainer::fit) does this by itself. It needs the feature `ctrlc`, and leaves a program's own handler in its place; without
/// either it does nothing.
///
/// ```
/// let listening = fornax::train::listen();
/// for step in 0..1000 {
///     // a training step
///     if fornax::train::interrupted() {
///         break; // and save
///     }
/// }
/// drop(listening);
/// ```
pub fn listen() -> Listening {
    if LISTENING.fetch_add(1, Ordering::SeqCst) == 0 {
        ASKED.store(false, Ordering::SeqCst);
    }
    #[cfg(feature = "ctrlc")]
    {
        static INSTALLED: std::sync::Once = std::sync::Once::new();
        INSTALLED.call_once(|| {
            let handler = || {
                if LISTENING.load(Ordering::SeqCst) == 0 || ASKED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                eprintln!("\ninterrupted: saving after this step; once more ends the process at once");
            };
            // Fails where the program has a handler of its own, which then calls `interrupt`.
            let _ = ctrlc::try_set_handler(handler);
        });
    }
    Listening(())
}

/// As long as it lives, Ctrl-C asks first: see [`listen`].
#[must_use = "Ctrl-C is listened to as long as this lives"]
pub struct Listening(());

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENING.fetch_sub(1, Ordering::SeqCst);
    }
}
