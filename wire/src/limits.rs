//! Every named limit of protocol and formats, in one place.

/// Unit of checksums and of direct I/O.
pub const BLOCK_BYTES: usize = 4096;
/// A FlatBuffers message in a frame, at most.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// A frame's payload, at most; also the largest fragment of a chunk.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Fragments are multiples of this, the last one excepted (R39).
pub const FRAGMENT_UNIT_BYTES: usize = 64 << 10;
/// Smallest chunk size a volume can have.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;
/// Largest chunk size a volume can have.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// A new volume's chunk size.
pub const CHUNK_BYTES_DEFAULT: u32 = 1 << 20;
/// Leaves of the largest chunk: 4 MiB / 4 KiB.
pub const LEAVES_MAX: usize = (CHUNK_BYTES_MAX as usize) / BLOCK_BYTES;
/// Verifier: nesting depth of a FlatBuffers message.
pub const MESSAGE_DEPTH_MAX: usize = 16;
/// Verifier: tables in a FlatBuffers message.
pub const MESSAGE_TABLES_MAX: usize = 4096;
/// Entries in a page of a listing.
pub const LIST_ENTRIES_MAX: u32 = 1024;
/// Bytes of a file's, directory's or link's name; never empty, never `.` or `..`, no NUL and no `/`.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a symbolic link's target.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Links followed while one path is walked, as in Linux.
pub const SYMLINK_HOPS_MAX: u32 = 40;
/// Names and values of one inode's extended attributes, together.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
/// Bytes of one extended attribute's name.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Extents of one file (1 TiB at 1 MiB chunks).
pub const FILE_EXTENTS_MAX: u64 = 1 << 20;
/// Roots in one message; larger files are staged (R37).
pub const MESSAGE_ROOTS_MAX: usize = 8192;
/// Bytes of a volume's name: `[a-z0-9][a-z0-9-]{0,62}`.
pub const VOLUME_NAME_BYTES_MAX: usize = 63;
/// Chunk ids in one `Delete` or `Inventory` message.
pub const MESSAGE_CHUNKS_MAX: usize = 4096;
/// Requests of a session that are not yet acknowledged (R17).
pub const SESSION_RESULTS_MAX: usize = 256;
/// Open sessions of a group (R17).
pub const GROUP_SESSIONS_MAX: usize = 65_536;
/// Values in any list of a control message; each kind has a lower limit of its own.
pub const CONTROL_LIST_MAX: usize = 65_536;
/// Bytes of a control message in its plain codec, and of a raft message.
pub const CONTROL_BYTES_MAX: usize = 900 << 10;
/// Changes of epoch that a log tells of (R7).
pub const TERMS_MAX: usize = 64;
/// Bytes of entries, or of a checkpoint's image, in one message between members of a chain.
pub const REPLICATION_BYTES_MAX: usize = 768 << 10;
/// Bytes of a name in a `Hello` or of a session.
pub const HELLO_NAME_BYTES_MAX: usize = 255;
/// Versions that one session pins (R25).
pub const SESSION_PINS_MAX: usize = 256;
/// Bytes of one page of the cluster map.
pub const MAP_PAGE_BYTES: usize = 512 << 10;
/// Pages of the cluster map: an encoded map ends at 32 MiB.
pub const MAP_PAGES_MAX: u32 = 64;
/// Bytes of a node's name or of a `host:port` in the cluster map.
pub const MAP_NAME_BYTES_MAX: usize = 255;
/// Members of one chain in the cluster map: its replicas, and those that come or go.
pub const CHAIN_MEMBERS_MAX: usize = 8;
/// Nodes in the cluster map.
pub const MAP_NODES_MAX: usize = 65_536;
/// Stores in the cluster map; slices refer to them by 16 bits.
pub const MAP_STORES_MAX: usize = 65_536;
/// Stores that one node registers: as many as it has ports for shards, and a metadata replica for each.
pub const NODE_STORES_MAX: usize = 512;
/// Nodes that one heartbeat suspects; a node that lacks more has lost its own link.
pub const HEARTBEAT_SUSPECTS_MAX: usize = 64;
/// Members that one heartbeat says to have synced; the others are said by the next one.
pub const HEARTBEAT_SYNCED_MAX: usize = 8_192;
/// Syncing members that one heartbeat complains of.
pub const HEARTBEAT_SLOW_MAX: usize = 256;
/// Stores that one command expels.
pub const COMMAND_STORES_MAX: usize = 4_096;
/// Chains listed in one answer to an operator; the counts beside them are complete.
pub const ANSWER_CHAINS_MAX: usize = 1_024;
/// Bits of the ring: 65,536 slices (R40).
pub const RING_BITS_MAX: u8 = 16;
/// Verifier: bytes of a message when every shared part is counted as often as it is referred to.
pub const MESSAGE_APPARENT_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;
/// Size of a file, as POSIX's signed offsets have it.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Words of a range's proof: at most 15 siblings on either side on each of the three levels above 1,024 leaves.
pub const PROOF_WORDS_MAX: usize = 3 * 2 * 15;
