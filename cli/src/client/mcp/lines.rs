//! Lines of standard input and output, each read or written by a thread: a pipe that is not read, or says nothing, blocks no
//! request.

use std::{
    io::{self, BufRead, Read, Write},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::client::error::ClientError;

/// Bytes of a line. The gateway accepts messages of 1 MiB.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// Lines that were read and not taken, and messages that were not written.
const QUEUE: usize = 64;

/// Time for the last messages to be written.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A line of standard input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// It is longer than this, and was skipped.
    TooLong(usize),
}

/// The lines of standard input.
pub(super) struct Lines(mpsc::Receiver<Line>);

impl Lines {
    /// Starts to read.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn read_stdin() -> Result<Self, ClientError> {
        let (lines, received) = mpsc::channel(QUEUE);
        let read = move || {
            let mut stdin = io::stdin().lock();
            while let Ok(Some(line)) = next_line(&mut stdin, MAX_LINE_BYTES) {
                if lines.blocking_send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("stdin".into()).spawn(read)?;
        Ok(Self(received))
    }

    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Line> {
        self.0.recv().await
    }
}

/// The next line that is not blank; `None` at the end. Bytes that are not UTF-8 are replaced.
fn next_line(input: &mut impl BufRead, limit: usize) -> io::Result<Option<Line>> {
    loop {
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        if input.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.len() > limit && !bytes.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            return Ok(Some(Line::TooLong(limit)));
        }
        let text = bytes.trim_ascii();
        if !text.is_empty() {
            return Ok(Some(Line::Text(String::from_utf8_lossy(text).into_owned())));
        }
    }
}

/// The thread that writes standard output.
pub(super) struct Writer(oneshot::Receiver<io::Result<()>>);

impl Writer {
    /// Starts to write the messages that are sent.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn write_stdout() -> Result<(Self, mpsc::Sender<String>), ClientError> {
        let (sender, mut messages) = mpsc::channel::<String>(QUEUE);
        let (ended, end) = oneshot::channel();
        let write = move || {
            let mut result = Ok(());
            let mut stdout = io::stdout().lock();
            while let Some(mut message) = messages.blocking_recv() {
                message.push('\n');
                result = stdout.write_all(message.as_bytes()).and_then(|()| stdout.flush());
                if result.is_err() {
                    break;
                }
            }
            let _ = ended.send(result);
        };
        thread::Builder::new().name("stdout".into()).spawn(write)?;
        Ok((Self(end), sender))
    }

    /// Waits until everything is written, unless it is not read.
    ///
    /// # Errors
    /// When it could not be written.
    pub(super) async fn finish(self) -> Result<(), ClientError> {
        match tokio::time::timeout(FINISH_TIMEOUT, self.0).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) | Err(_) => Err(ClientError::OutputClosed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_line_is_skipped_and_blank_ones_are_ignored() {
        let mut input = &b"\r\n  {\"a\":1}\r\n123456789012\nabc\n\xff"[..];
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input, 10).unwrap() {
            lines.push(line);
        }
        let text = |text: &str| Line::Text(text.into());
        assert_eq!(lines, [text("{\"a\":1}"), Line::TooLong(10), text("abc"), text("\u{fffd}")]);
    }
}
