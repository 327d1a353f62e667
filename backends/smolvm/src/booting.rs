//! The start of a machine. One that does not come up in time is made anew: a busy host, and most of all an emulated one, now and
//! then has a machine that stands still from its first moment on, and its next one comes up.

use bottle_backend::{BackendError, BackendErrorKind};

use crate::machine::Maker;
use crate::shapes::MachineSpec;

impl Maker {
    /// Starts a machine that was made. Only what was not ready in time is tried again: a refusal would be one again.
    pub(crate) async fn boot(&self, spec: &MachineSpec) -> Result<(), BackendError> {
        let (name, shapes) = (&spec.name, self.program.shapes());
        let mut attempt = 1;
        loop {
            let Err(error) = self.program.call_behind(shapes.start(name), self.limits.start).await else {
                return Ok(());
            };
            if error.kind != BackendErrorKind::TimedOut || attempt >= self.start_tries {
                return Err(error);
            }
            tracing::warn!(machine = name, attempt, of = self.start_tries, %error, "not up in time: made anew");
            self.clear(name).await?;
            self.program.call(shapes.create(spec), self.limits.create).await?;
            attempt += 1;
        }
    }
}
