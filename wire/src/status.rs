//! The closed set of answers. Each has one meaning, everywhere.

macro_rules! status {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a reply says about its request. An error's text never crosses the wire; this does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Status { $($(#[$doc])* $name = $code,)* }

        impl Status {
            /// Every status, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The status with this code; `None` for one that this version doesn't know.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// The code on the wire.
            pub fn code(self) -> u16 {
                self as u16
            }

            /// A few words for a person.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

status! {
    /// Done, durably where that applies.
    Ok = 0, "ok";
    /// The request's epoch isn't the chain's; not executed. Ask for the map.
    WrongEpoch = 1, "the chain's membership has changed";
    /// Another shard owns this chunk; not executed. Ask for the map.
    WrongShard = 2, "another shard owns this chunk";
    /// This replica doesn't serve now (starting, draining, fenced); not executed.
    NotServing = 3, "the replica isn't serving";
    /// A named limit is reached; not executed. Try again after the reply's `retry_after`.
    Busy = 4, "the server is at a limit, try again";
    /// No space that this request may use; deletes still work.
    NoSpace = 5, "no space left";
    /// The named thing doesn't exist.
    NotFound = 6, "not found";
    /// The named thing exists already.
    AlreadyExists = 7, "exists already";
    /// The file's version isn't the one the request was conditional on.
    VersionConflict = 8, "another version than expected";
    /// The caller may not do this.
    PermissionDenied = 9, "permission denied";
    /// The caller is unknown.
    Unauthenticated = 10, "not authenticated";
    /// Stored or sent bytes don't match their checksum.
    ChecksumMismatch = 11, "checksum mismatch";
    /// The session is closed or unknown; an unanswered mutation's outcome is unknown (R21).
    SessionExpired = 12, "the session has expired";
    /// A quota would be exceeded.
    QuotaExceeded = 13, "quota exceeded";
    /// Well-formed, and nothing this version or this place can do.
    Unsupported = 14, "not supported";
    /// Malformed, or against a limit or rule that the sender should know.
    BadRequest = 15, "bad request";
    /// A path component that should be a directory isn't one.
    NotDirectory = 16, "not a directory";
    /// The operation needs a file, and this is a directory.
    IsDirectory = 17, "is a directory";
    /// The directory isn't empty.
    NotEmpty = 18, "directory not empty";
    /// A name, path, link target, attribute or file is over its limit.
    TooLarge = 19, "over a limit of size";
    /// Too many symbolic links on the way.
    TooManyLinks = 20, "too many symbolic links";
    /// The history that was asked for is gone (R16).
    IndexGone = 21, "that point in time is no longer kept";
    /// Chunks of this commit were lost by an operator's decision: write them again (R8).
    ChunksLost = 22, "chunks of this commit were lost, write again";
    /// An input or output error of the store; it is fenced.
    StoreFailed = 23, "the store failed";
    /// The version that the peer speaks isn't spoken here.
    UnsupportedVersion = 24, "protocol version not supported";
    /// The deadline passed before the request was executed; not executed.
    DeadlineExceeded = 25, "deadline exceeded";
    /// A precondition of the request other than a version doesn't hold.
    PreconditionFailed = 26, "precondition failed";
    /// A rename would put a directory into itself.
    Cycle = 27, "a directory can't be moved into itself";
    /// The peer belongs to another cluster.
    WrongCluster = 28, "another cluster";
}

impl Status {
    /// Whether the request was certainly not executed by this copy, so that another try may be made elsewhere or later
    /// without asking what the first did (R14).
    pub fn is_not_executed(self) -> bool {
        matches!(
            self,
            Self::WrongEpoch
                | Self::WrongShard
                | Self::NotServing
                | Self::Busy
                | Self::UnsupportedVersion
                | Self::DeadlineExceeded
                | Self::WrongCluster
        )
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
