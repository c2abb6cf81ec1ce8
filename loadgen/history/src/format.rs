//! The format of histories: JSON Lines, a header first. docs/history-format.md describes it for who writes or reads it elsewhere.
//!
//! A mutation is written twice: when it is asked for, without an outcome, and once it is answered. So a process that is killed leaves none out
//! that may have taken effect: what has no second line is of unknown outcome. The reader is total: any bytes give a history or an error.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use thiserror::Error;

use crate::json::{self, Value, push_number, push_text};
use crate::record::{Action, Answer, Listed, Outcome, Piece, Record, Stamp};

/// The version of the format; a newer one is refused by its number.
pub const FORMAT_VERSION: u64 = 1;
/// Bytes of a line, at most: a list of 100,000 files fits.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// The first line: whose history it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The process; unique among the histories that are checked together.
    pub process: u32,
    /// The start of the machine that the clock counts from, as the system names it. Times of one start compare, whatever process read them.
    pub boot: String,
    /// The volume's name.
    pub volume: String,
    /// The directory that all paths lie in. It was empty when the first of the processes began.
    pub directory: String,
    /// A commit index of before the first operation. What has a lower version was there before.
    pub index: u64,
    /// What a person may want to know of the run.
    pub about: String,
}

/// A history that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its header.
    pub header: Header,
    /// Its operations, in the order of their first lines.
    pub records: Vec<Record>,
    /// Whether the process wrote its last line: it ended by itself.
    pub is_ended: bool,
}

/// What can't be read as a history.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The input can't be read.
    #[error("can't be read")]
    Io(#[from] io::Error),
    /// The first line isn't a header.
    #[error("isn't a history: its first line has to be a header")]
    NoHeader,
    /// Written by a newer version.
    #[error("has format version {found}, this program reads {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// A line that isn't one of the format.
    #[error("line {line}: {reason}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Writes a history's lines into buffers: whoever owns the file decides when they go there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer;

impl Writer {
    /// The first line.
    pub fn header(out: &mut Vec<u8>, header: &Header) {
        let mut line = Line::begin(out);
        line.number("history", FORMAT_VERSION);
        line.number("process", u64::from(header.process));
        line.text("boot", &header.boot);
        line.text("volume", &header.volume);
        line.text("directory", &header.directory);
        line.number("index", header.index);
        line.text("about", &header.about);
        line.end();
    }

    /// A line of an operation. A mutation that was just asked for has the outcome [`Outcome::Unknown`] and no end.
    pub fn record(out: &mut Vec<u8>, record: &Record) {
        let mut line = Line::begin(out);
        line.number("client", u64::from(record.stamp.client));
        line.number("number", u64::from(record.stamp.number));
        line.number("began", record.began);
        line.some("ended", record.ended);
        line.text("op", record.action.name());
        line.text("path", record.action.path());
        match &record.action {
            Action::Put { length, .. } | Action::Append { length, .. } => line.number("length", *length),
            Action::Get { offset, length, .. } => {
                line.number("offset", *offset);
                line.some("length", Some(*length).filter(|length| *length != u64::MAX));
            }
            Action::Rename { to, .. } => line.text("to", to),
            Action::Stat { .. } | Action::List { .. } | Action::Delete { .. } => {}
        }
        match &record.outcome {
            Outcome::Ok(answer) => {
                line.text("outcome", "ok");
                write_answer(&mut line, answer);
            }
            Outcome::Absent => line.text("outcome", "absent"),
            Outcome::Failed => line.text("outcome", "failed"),
            Outcome::Unknown => line.text("outcome", "unknown"),
            Outcome::Torn => line.text("outcome", "torn"),
            Outcome::Corrupt => line.text("outcome", "corrupt"),
        }
        line.end();
    }

    /// The last line, of a process that ended by itself.
    pub fn end(out: &mut Vec<u8>, at: u64) {
        let mut line = Line::begin(out);
        line.number("end", at);
        line.end();
    }

    /// A whole history.
    pub fn whole(out: &mut impl Write, history: &History) -> io::Result<()> {
        let mut buffer = Vec::new();
        Self::header(&mut buffer, &history.header);
        for record in &history.records {
            Self::record(&mut buffer, record);
            out.write_all(&buffer)?;
            buffer.clear();
        }
        if history.is_ended {
            Self::end(
                &mut buffer,
                history.records.iter().filter_map(|record| record.ended).max().unwrap_or(0),
            );
        }
        out.write_all(&buffer)
    }
}

fn write_answer(line: &mut Line<'_>, answer: &Answer) {
    line.some("index", answer.index);
    line.some("inode", answer.inode);
    line.some("version", answer.version);
    line.some("size", answer.size);
    line.some("at", answer.offset);
    if let Some(seen) = &answer.seen {
        line.list("seen", seen, |out, piece| {
            let Stamp { process, client, number } = piece.stamp;
            let numbers = [process.into(), client.into(), number.into(), piece.from, piece.length];
            for (index, number) in numbers.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_number(out, number);
            }
        });
    }
    if let Some(listed) = &answer.listed {
        line.list("files", listed, |out, file| {
            push_text(out, &file.name);
            for number in [file.inode, file.version, file.size] {
                out.push(b',');
                push_number(out, number);
            }
        });
    }
}

/// A line that is being written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.push(b',');
        }
        push_text(self.out, name);
        self.out.push(b':');
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        push_number(self.out, number);
    }

    fn some(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_text(self.out, text);
    }

    /// A list of lists, of which `write` writes the inside.
    fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
        self.name(name);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.push(b'[');
            write(self.out, item);
            self.out.push(b']');
        }
        self.out.push(b']');
    }

    fn end(self) {
        self.out.extend(b"}\n");
    }
}

/// Reads a history. A last line that was cut off is passed over: nobody waited for it.
pub fn read(input: impl BufRead) -> Result<History, FormatError> {
    let mut reader = Reader { input, line: 0, bytes: Vec::new() };
    let mut history = History { header: reader.header()?, ..History::default() };
    let mut names = Names::default();
    let mut lasts: BTreeMap<u32, (u32, usize)> = BTreeMap::new();
    while reader.advance()? {
        let line = reader.line;
        let wrong = |reason| FormatError::Line { line, reason };
        let is_whole = reader.bytes.last() == Some(&b'\n');
        let mut fields = Vec::with_capacity(FIELDS_TYPICAL);
        let parsed = std::str::from_utf8(&reader.bytes)
            .map_err(|_| "isn't text")
            .and_then(|text| json::object(text, &mut fields).map_err(|_| "isn't a line of a history"))
            .and_then(|()| parse(&fields, history.header.process, &mut names));
        let record = match parsed {
            Err(_) if !is_whole => break,
            Err(reason) => return Err(wrong(reason)),
            Ok(Parsed::End) => {
                history.is_ended = true;
                continue;
            }
            Ok(Parsed::Record(record)) => *record,
        };
        if history.is_ended {
            return Err(wrong("stands behind the end"));
        }
        let Stamp { client, number, .. } = record.stamp;
        match lasts.get(&client) {
            Some((last, place)) if *last == number => {
                let before = &mut history.records[*place];
                if before.ended.is_some() || before.action != record.action || before.began != record.began {
                    return Err(wrong("tells of an operation that another line has told of"));
                }
                *before = record;
            }
            Some((last, _)) if *last > number => return Err(wrong("a client's operations are in order")),
            _ => {
                lasts.insert(client, (number, history.records.len()));
                history.records.push(record);
            }
        }
    }
    Ok(history)
}

/// Fields that a line of an answered operation has, or fewer.
const FIELDS_TYPICAL: usize = 16;

struct Reader<R> {
    input: R,
    line: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the next line; `false` at the end.
    fn advance(&mut self) -> Result<bool, FormatError> {
        self.bytes.clear();
        self.line += 1;
        let read = (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.bytes)?;
        if read as u64 == LINE_BYTES_MAX && self.bytes.last() != Some(&b'\n') {
            return Err(FormatError::Line { line: self.line, reason: "is too long" });
        }
        Ok(read > 0)
    }

    fn header(&mut self) -> Result<Header, FormatError> {
        if !self.advance()? {
            return Err(FormatError::NoHeader);
        }
        let text = std::str::from_utf8(&self.bytes).map_err(|_| FormatError::NoHeader)?;
        let mut fields = Vec::new();
        json::object(text, &mut fields).map_err(|_| FormatError::NoHeader)?;
        let field = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| value);
        let number = |name: &str| field(name).and_then(Value::number).ok_or(FormatError::NoHeader);
        let text = |name: &str| field(name).and_then(Value::text).unwrap_or_default().to_owned();
        let found = number("history")?;
        if found != FORMAT_VERSION {
            return Err(FormatError::Version { found });
        }
        Ok(Header {
            process: u32::try_from(number("process")?).map_err(|_| FormatError::NoHeader)?,
            boot: text("boot"),
            volume: text("volume"),
            directory: text("directory"),
            index: number("index")?,
            about: text("about"),
        })
    }
}

/// Each path once, however many operations name it.
#[derive(Debug, Default)]
struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.0.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&name));
        name
    }
}

enum Parsed {
    Record(Box<Record>),
    End,
}

/// The fields of one line by their names; one that the format doesn't know is an error, since who wrote it meant something.
#[derive(Default)]
struct Raw<'a> {
    numbers: [Option<u64>; NUMBERS.len()],
    texts: [Option<&'a str>; TEXTS.len()],
    seen: Option<&'a [Value<'a>]>,
    files: Option<&'a [Value<'a>]>,
}

const NUMBERS: [&str; 12] = [
    "client", "number", "began", "ended", "length", "offset", "index", "inode", "version", "size", "at",
    "end",
];
const TEXTS: [&str; 4] = ["op", "path", "to", "outcome"];

impl<'a> Raw<'a> {
    fn of(fields: &'a [(Cow<'a, str>, Value<'a>)]) -> Result<Self, &'static str> {
        const WRONG: &str = "a field has a value of the wrong kind";
        let mut raw = Self::default();
        for (name, value) in fields {
            if let Some(place) = NUMBERS.iter().position(|known| known == name) {
                raw.numbers[place] = Some(value.number().ok_or(WRONG)?);
            } else if let Some(place) = TEXTS.iter().position(|known| known == name) {
                raw.texts[place] = Some(value.text().ok_or(WRONG)?);
            } else if name == "seen" {
                raw.seen = Some(value.list().ok_or(WRONG)?);
            } else if name == "files" {
                raw.files = Some(value.list().ok_or(WRONG)?);
            } else {
                return Err("has a field that the format doesn't know");
            }
        }
        Ok(raw)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.numbers[NUMBERS.iter().position(|known| *known == name).expect("a name of the table")]
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.texts[TEXTS.iter().position(|known| *known == name).expect("a name of the table")]
    }
}

fn parse(
    fields: &[(Cow<'_, str>, Value<'_>)],
    process: u32,
    names: &mut Names,
) -> Result<Parsed, &'static str> {
    let raw = Raw::of(fields)?;
    if raw.number("end").is_some() {
        return Ok(Parsed::End);
    }
    let small = |name| raw.number(name).and_then(|number| u32::try_from(number).ok());
    let stamp = Stamp {
        process,
        client: small("client").ok_or("names no client")?,
        number: small("number").filter(|number| *number > 0).ok_or("has no number")?,
    };
    let began = raw.number("began").ok_or("has no beginning")?;
    let ended = raw.number("ended");
    if ended.is_some_and(|ended| ended < began) {
        return Err("ends before it begins");
    }
    let action = parse_action(&raw, names)?;
    let outcome = match raw.text("outcome").unwrap_or("unknown") {
        "ok" => Outcome::Ok(parse_answer(&raw, names)?),
        "absent" => Outcome::Absent,
        "failed" => Outcome::Failed,
        "unknown" => Outcome::Unknown,
        "torn" => Outcome::Torn,
        "corrupt" => Outcome::Corrupt,
        _ => return Err("has an outcome that the format doesn't know"),
    };
    if outcome != Outcome::Unknown && ended.is_none() {
        return Err("has an outcome and no end");
    }
    Ok(Parsed::Record(Box::new(Record { stamp, began, ended, action, outcome })))
}

fn parse_action(raw: &Raw<'_>, names: &mut Names) -> Result<Action, &'static str> {
    let path = names.name(raw.text("path").ok_or("names no path")?);
    let length = raw.number("length");
    Ok(match raw.text("op").ok_or("names no operation")? {
        "put" => Action::Put { path, length: length.ok_or("has no length")? },
        "append" => Action::Append { path, length: length.ok_or("has no length")? },
        "get" => Action::Get {
            path,
            offset: raw.number("offset").unwrap_or(0),
            length: length.unwrap_or(u64::MAX),
        },
        "stat" => Action::Stat { path },
        "list" => Action::List { path },
        "delete" => Action::Delete { path },
        "rename" => {
            let to = names.name(raw.text("to").ok_or("has no target")?);
            if to == path {
                return Err("renames a file to itself");
            }
            Action::Rename { path, to }
        }
        _ => return Err("has an operation that the format doesn't know"),
    })
}

fn parse_answer(raw: &Raw<'_>, names: &mut Names) -> Result<Answer, &'static str> {
    let seen = raw.seen.map(|list| list.iter().map(parse_piece).collect::<Option<Vec<Piece>>>());
    let listed = raw.files.map(|list| list.iter().map(|file| parse_listed(file, names)).collect());
    Ok(Answer {
        index: raw.number("index"),
        inode: raw.number("inode"),
        version: raw.number("version"),
        size: raw.number("size"),
        offset: raw.number("at"),
        seen: seen.map(|seen| seen.ok_or("`seen` isn't a list of pieces")).transpose()?,
        listed: listed
            .map(|files: Option<Vec<Listed>>| files.ok_or("`files` isn't a list of files"))
            .transpose()?,
    })
}

fn parse_piece(value: &Value<'_>) -> Option<Piece> {
    let [process, client, number, from, length] = value.list()? else { return None };
    let small = |value: &Value<'_>| value.number().and_then(|number| u32::try_from(number).ok());
    let stamp = Stamp { process: small(process)?, client: small(client)?, number: small(number)? };
    let (from, length) = (from.number()?, length.number().filter(|length| *length > 0)?);
    from.checked_add(length)?;
    Some(Piece { stamp, from, length })
}

fn parse_listed(value: &Value<'_>, names: &mut Names) -> Option<Listed> {
    let [name, inode, version, size] = value.list()? else { return None };
    Some(Listed {
        name: names.name(name.text()?),
        inode: inode.number()?,
        version: version.number()?,
        size: size.number()?,
    })
}
