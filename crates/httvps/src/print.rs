//! What the program says: the one place that writes to standard output and standard error.
//!
//! The macros of the standard library panic where nothing can be written (a reader that has gone, a
//! full disk), and a panic ends the task that says something. Here a failure is lost or returned.
//! Whatever would control a terminal is shown escaped, since words may come from a peer.

use httvps_telemetry::log::controls_terminal;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that may wait for standard error; further ones are lost and counted.
const MAX_WAITING_LINES: usize = 256;

/// Longest line that a task says, in characters; the rest is cut.
const MAX_LINE: usize = 2_048;

/// How long the end of the program waits for the last lines to be written.
const FINISH_DEADLINE: Duration = Duration::from_secs(1);
/// How soon a full queue is looked at again meanwhile.
const FINISH_RETRY: Duration = Duration::from_millis(1);

/// Writes words to standard error, which may be several lines. Where it takes nothing they are lost.
pub(crate) fn say(words: impl Display) {
    say_as("httvps", words);
}

/// The same under another name than `httvps`.
pub(crate) fn say_as(name: &str, words: impl Display) {
    let text = format!("{name}: {}\n", Shown { words, has_lines: true, left: usize::MAX });
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says what went wrong. The exit code tells it where even standard error takes nothing.
pub(crate) fn fail(words: impl Display) -> ExitCode {
    say(words);
    ExitCode::FAILURE
}

/// Writes the result of a command to standard output; when that does not take it, the command has
/// failed.
pub(crate) fn result(text: impl Display) -> Result<(), ExitCode> {
    let text = Shown { words: text, has_lines: true, left: usize::MAX }.to_string();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| fail(format_args!("cannot write the output: {error}")))
}

/// Lines for standard error from tasks that must not wait for it: a thread of its own writes them.
pub(crate) struct Lines {
    queue: SyncSender<Item>,
    lost: AtomicU64,
}

enum Item {
    Line(String),
    Finish(SyncSender<()>),
}

impl Lines {
    /// Starts the thread that writes to standard error.
    pub(crate) fn to_stderr() -> Self {
        Self::to(io::stderr())
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let (queue, items) = sync_channel(MAX_WAITING_LINES);
        // Without the thread every line is lost, which is no reason not to carry traffic.
        let _ = thread::Builder::new().name("lines".to_owned()).spawn(move || write(&items, out));
        Self { queue, lost: AtomicU64::new(0) }
    }

    /// Says one line. Never waits: a line that finds no room is lost, and the next one that is
    /// written says how many were.
    pub(crate) fn say(&self, words: impl Display) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut line = String::new();
        if lost > 0 {
            let _ = writeln!(
                line,
                "httvps: {lost} lines are missing here: standard error was not read"
            );
        }
        let _ = writeln!(line, "httvps: {}", Shown { words, has_lines: false, left: MAX_LINE });
        if self.queue.try_send(Item::Line(line)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// Waits until what was said is written, for one second at most.
    pub(crate) fn finish(&self) {
        let deadline = Instant::now() + FINISH_DEADLINE;
        let (done, is_done) = sync_channel(1);
        let mut item = Item::Finish(done);
        loop {
            match self.queue.try_send(item) {
                Ok(()) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let _ = is_done.recv_timeout(left);
                    return;
                }
                // The lines before it are being written.
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    item = back;
                    thread::sleep(FINISH_RETRY);
                }
                Err(_) => return,
            }
        }
    }
}

fn write(items: &Receiver<Item>, mut out: impl Write) {
    for item in items {
        match item {
            // A line that is not taken is lost; a later one may be.
            Item::Line(line) => drop(out.write_all(line.as_bytes())),
            Item::Finish(done) => drop(done.try_send(())),
        }
    }
}

/// Words in which nothing controls a terminal.
struct Shown<D> {
    words: D,
    /// Whether line ends and tabs stay.
    has_lines: bool,
    /// Characters that are shown at most.
    left: usize,
}

impl<D: Display> Display for Shown<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut escaping = Escaping { out: f, has_lines: self.has_lines, left: self.left };
        match write!(escaping, "{}", self.words) {
            Err(_) if escaping.left == 0 => f.write_char('…'),
            result => result,
        }
    }
}

struct Escaping<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    has_lines: bool,
    left: usize,
}

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                return Err(fmt::Error);
            }
            self.left -= 1;
            let stays = self.has_lines && matches!(character, '\n' | '\t');
            if controls_terminal(character) && !stays {
                write!(self.out, "{}", character.escape_default())?;
            } else {
                self.out.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Tells when a write begins, and takes it when it is allowed to; then it keeps what it took.
    struct Gate {
        begun: SyncSender<()>,
        go_on: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.try_send(());
            let _ = self.go_on.recv();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_not_read_hold_up_nothing_and_are_counted() {
        let (begun, has_begun) = sync_channel(1);
        let (release, go_on) = sync_channel(1);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::to(Gate { begun, go_on, taken: taken.clone() });
        lines.say("first");
        has_begun.recv().unwrap();
        // The thread is stuck in its write: these fill the queue, and three find no room.
        for number in 0..MAX_WAITING_LINES + 3 {
            lines.say(number);
        }
        drop(release);
        // A place comes free as soon as the thread takes the next line.
        while lines.lost.load(Ordering::Relaxed) > 0 {
            lines.say("after");
        }
        lines.finish();
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("httvps: first\nhttvps: 0\nhttvps: 1\n"), "{text}");
        let lost = text.lines().find(|line| line.contains("lines are missing here")).unwrap();
        let count: usize = lost.split(' ').nth(1).unwrap().parse().unwrap();
        let written = text
            .lines()
            .filter(|line| line.trim_start_matches("httvps: ").parse::<usize>().is_ok());
        assert!(count >= 3, "{lost}");
        assert_eq!(written.count(), MAX_WAITING_LINES);
    }

    /// Takes nothing.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_do_not_end_the_thread() {
        let lines = Lines::to(Full);
        lines.say("a");
        lines.finish();
        lines.say("b");
        let (done, is_done) = sync_channel(1);
        lines.queue.send(Item::Finish(done)).unwrap();
        is_done.recv().unwrap();
    }

    #[test]
    fn what_controls_a_terminal_is_escaped() {
        let shown = |has_lines, left| {
            let words = "a\u{1b}[2J\u{9b}1m\u{7f}\u{202e}b\nc\r\t\u{e4}";
            Shown { words, has_lines, left }.to_string()
        };
        let escaped = r"a\u{1b}[2J\u{9b}1m\u{7f}\u{202e}b";
        assert_eq!(shown(false, 99), format!("{escaped}\\nc\\r\\t\u{e4}"));
        assert_eq!(shown(true, 99), format!("{escaped}\nc\\r\t\u{e4}"));
        assert_eq!(shown(false, 2), r"a\u{1b}…");
    }
}
