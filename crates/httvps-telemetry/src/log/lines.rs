//! The writing of log lines: together where they come together, and counted where they are lost.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How long lines gather after some were written. Waking a thread for each line cost a twentieth of a handshake.
/// A process that is killed loses those of that time with what waits.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that are written together; a longer line is written by itself.
const WRITTEN_TOGETHER: usize = 8 * 1024;

/// Lines that could not be written; clones count the same lines.
#[derive(Debug, Clone, Default)]
pub(super) struct LostLines(Arc<AtomicU64>);

impl LostLines {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Standard output without a buffer of its own, which would hide how much of a line was written.
pub(super) fn standard_output() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

/// Writes a first line at once, and those of the next [`GATHER`] together. It never fails: lines
/// that are not taken are lost and counted.
///
/// The thread that writes flushes when no line is left. While it pauses there, those who log find it awake.
pub(super) struct Gathering<W> {
    output: W,
    /// Whole lines.
    gathered: Vec<u8>,
    lost: LostLines,
    /// Whether only a part of the last line was written.
    is_torn: bool,
    pause: fn(Duration),
}

impl<W: Write> Gathering<W> {
    pub(super) fn new(output: W, lost: LostLines) -> Self {
        Self { output, gathered: Vec::new(), lost, is_torn: false, pause: thread::sleep }
    }

    fn write_gathered(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        if self.is_torn {
            // What comes now shall not be taken for the rest of that line.
            self.gathered.insert(0, b'\n');
        }
        let mut written = 0;
        while written < self.gathered.len() {
            match self.output.write(&self.gathered[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard output is shared with a program that made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (self.pause)(GATHER),
                Ok(_) | Err(_) => break,
            }
        }
        let (taken, left) = self.gathered.split_at(written);
        if let Some(last) = taken.last() {
            self.is_torn = *last != b'\n';
        }
        let lost = left.split_inclusive(|byte| *byte == b'\n').count() as u64;
        // The end of the torn line was no line.
        let was_unused = written == 0 && left.starts_with(b"\n");
        self.lost.0.fetch_add(lost - u64::from(was_unused), Ordering::Relaxed);
        self.gathered.clear();
    }
}

impl<W: Write> Write for Gathering<W> {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + line.len() > WRITTEN_TOGETHER {
            self.write_gathered();
        }
        self.gathered.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_gathered();
        (self.pause)(GATHER);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    /// Takes as many bytes as it is told to, or fails; then everything.
    #[derive(Clone, Default)]
    struct Output {
        taken: Rc<RefCell<Vec<u8>>>,
        answers: Rc<RefCell<VecDeque<io::Result<usize>>>>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let answer = self.answers.borrow_mut().pop_front().unwrap_or(Ok(bytes.len()))?;
            self.taken.borrow_mut().extend_from_slice(&bytes[..answer]);
            Ok(answer)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gathering(output: &Output) -> Gathering<Output> {
        Gathering { pause: |_| {}, ..Gathering::new(output.clone(), LostLines::default()) }
    }

    fn says(log: &mut Gathering<Output>, lines: &[&str]) {
        for line in lines {
            log.write_all(line.as_bytes()).unwrap();
        }
        log.flush().unwrap();
    }

    #[test]
    fn what_is_flushed_is_written_before_the_next_lines_gather() {
        thread_local! {
            static SEEN: Output = Output::default();
        }
        let pause = |pause| {
            assert_eq!(pause, GATHER);
            SEEN.with(|seen| seen.taken.borrow_mut().extend_from_slice(b"|"));
        };
        let seen = SEEN.with(Clone::clone);
        let mut log = Gathering { pause, ..gathering(&seen) };
        says(&mut log, &["a\n", "b\n"]);
        says(&mut log, &["c\n"]);
        assert_eq!(*seen.taken.borrow(), b"a\nb\n|c\n|");
    }

    #[test]
    fn lines_that_are_not_taken_are_counted_and_later_ones_are_written() {
        let output = Output::default();
        let mut log = gathering(&output);
        let full = || Err(io::ErrorKind::StorageFull.into());
        output.answers.borrow_mut().extend([full(), full()]);
        says(&mut log, &["a\n", "b\n"]);
        says(&mut log, &["c\n"]);
        assert_eq!(log.lost.count(), 3);
        says(&mut log, &["d\n"]);
        assert_eq!((log.lost.count(), &**output.taken.borrow()), (3, &b"d\n"[..]));
    }

    #[test]
    fn a_line_that_is_written_in_part_is_lost_and_does_not_run_into_the_next() {
        let output = Output::default();
        let mut log = gathering(&output);
        let full = || Err(io::ErrorKind::StorageFull.into());
        output.answers.borrow_mut().extend([Ok(4), full(), full()]);
        says(&mut log, &["a\n", "bcd\n", "e\n"]);
        assert_eq!(log.lost.count(), 2);
        says(&mut log, &["f\n"]);
        assert_eq!(log.lost.count(), 3);
        says(&mut log, &["g\n"]);
        says(&mut log, &["h\n"]);
        assert_eq!((log.lost.count(), &**output.taken.borrow()), (3, &b"a\nbc\ng\nh\n"[..]));
    }

    #[test]
    fn an_output_that_is_not_ready_is_waited_for() {
        let output = Output::default();
        let mut log = gathering(&output);
        let later = || Err(io::ErrorKind::WouldBlock.into());
        output.answers.borrow_mut().extend([later(), Ok(1), later()]);
        says(&mut log, &["a\n", "b\n"]);
        assert_eq!((log.lost.count(), &**output.taken.borrow()), (0, &b"a\nb\n"[..]));
    }

    #[test]
    fn many_lines_are_written_before_they_take_much_memory() {
        let output = Output::default();
        let mut log = gathering(&output);
        let line = format!("{}\n", "x".repeat(1_023));
        for _ in 0..20 {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(output.taken.borrow().len(), 2 * WRITTEN_TOGETHER);
        log.flush().unwrap();
        assert_eq!((output.taken.borrow().len(), log.lost.count()), (20 * 1_024, 0));
    }
}
