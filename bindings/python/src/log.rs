//! The core's log records on their way to `logging.getLogger("tenure")`.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::inbox::{self, Item};

/// As in Python's `logging`: records below it are not made.
static LEVEL: AtomicU32 = AtomicU32::new(30);

/// Records of this level of Python's `logging` and above are passed on from now on.
pub fn set_level(level: u32) {
    LEVEL.store(level, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Takes the core's records. The extension has the `tracing` it is built with to itself.
pub fn install() {
    // Refused only when it is installed already.
    let _ = tracing::subscriber::set_global_default(Bridge);
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(target: "tenure", "{panic}");
    }));
}

fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        _ => 5,
    }
}

struct Bridge;

impl Subscriber for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(tenure::node::record_level(metadata)) >= LEVEL.load(Relaxed)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let target = event.metadata().target().replace("::", ".");
        inbox::push(Item::Log { level: number(tenure::node::record_level(event.metadata())), target, text: text.message + &text.fields });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
