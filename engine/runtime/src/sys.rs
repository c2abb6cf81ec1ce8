//! The system calls that the standard library lacks, each as a safe function. No state, no policy.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use wire::{Nanos, Timestamp};

/// A socket address as the kernel wants it.
pub(crate) union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// The address and its length for `connect`.
    pub(crate) fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        match address {
            SocketAddr::V4(address) => (Self { v4: raw_v4(address) }, size_of_address::<libc::sockaddr_in>()),
            SocketAddr::V6(address) => {
                (Self { v6: raw_v6(address) }, size_of_address::<libc::sockaddr_in6>())
            }
        }
    }
}

fn size_of_address<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("addresses are small")
}

fn raw_v4(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small constant"),
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn raw_v6(address: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::sa_family_t::try_from(libc::AF_INET6).expect("a small constant"),
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A TCP socket that isn't connected yet, with `TCP_NODELAY`.
pub(crate) fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system call without pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_no_delay(fd.as_fd())?;
    unpace_loopback(fd.as_fd(), address);
    Ok(fd)
}

/// `TCP_NODELAY`; a listener hands it on to the sockets that it accepts.
pub(crate) fn set_no_delay(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_address::<libc::c_int>(),
        )
    })?;
    Ok(())
}

/// Lets a connection over loopback send as fast as its peer reads: by `reno`, which every kernel has and which doesn't pace. What the host is set to is meant for
/// its network; `bbr` spends a fifth of a loopback sender's time on timers. A listener hands it on to the sockets that it accepts. Where the host allows
/// its users no `reno`, connections are paced and work.
pub(crate) fn unpace_loopback(fd: BorrowedFd<'_>, address: SocketAddr) {
    if !address.ip().is_loopback() {
        return;
    }
    let name = b"reno";
    // SAFETY: the pointer and the length describe `name`, which outlives the call.
    let result = check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            size_of_address::<[u8; 4]>(),
        )
    });
    if let Err(error) = result {
        tracing::debug!(%error, "the host allows no reno (net.ipv4.tcp_allowed_congestion_control): loopback is paced as its network is");
    }
}

/// The congestion control of a TCP socket.
pub(crate) fn congestion(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0_u8; 16];
    let mut len = size_of_address::<[u8; 16]>();
    // SAFETY: the pointers and the length describe `name` and `len`, which outlive the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Makes the calling thread's time limits exact; by default they may come 50 µs late.
pub(crate) fn exact_timers() {
    const SLACK_NANOSECONDS: libc::c_ulong = 1;
    // SAFETY: plain system call without pointers. It can't fail with this option.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NANOSECONDS) };
}

/// Sets how many connections may wait to be accepted.
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: plain system call without pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Ends both directions; errors don't matter, the peer may have been faster.
pub(crate) fn shutdown(fd: BorrowedFd<'_>) {
    // SAFETY: plain system call without pointers.
    let _ = unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// A descriptor that the caller now owns, as the uring returned it.
pub(crate) fn own(fd: i32) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: an accept completion hands over a fresh descriptor, once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A new eventfd, empty.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd. It can't fail but for an overflow, which wakes as well.
pub(crate) fn ring_bell(fd: BorrowedFd<'_>) {
    let one: u64 = 1;
    // SAFETY: the pointer and the length describe `one`, which outlives the call.
    let _ = unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
}

/// Time since boot, suspended time included.
pub(crate) fn boottime() -> Nanos {
    let time = clock(libc::CLOCK_BOOTTIME);
    let seconds = u64::try_from(time.tv_sec).expect("time since boot isn't negative");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("nanoseconds aren't negative");
    Nanos(seconds * Nanos::SECOND + nanoseconds)
}

/// Wall-clock time.
pub(crate) fn realtime() -> Timestamp {
    let time = clock(libc::CLOCK_REALTIME);
    Timestamp(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_nanoseconds() -> u64 {
    let time = clock(libc::CLOCK_THREAD_CPUTIME_ID);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time isn't negative");
    seconds * Nanos::SECOND + u64::try_from(time.tv_nsec).expect("nanoseconds aren't negative")
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut time = MaybeUninit::uninit();
    // SAFETY: the pointer is to writable memory of the right type.
    let result = unsafe { libc::clock_gettime(id, time.as_mut_ptr()) };
    assert_eq!(result, 0, "the kernel has this clock");
    // SAFETY: the call succeeded, so it filled the structure.
    unsafe { time.assume_init() }
}

/// Fills `bytes` from the kernel's generator.
pub(crate) fn random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer and the length describe `rest`.
        let result = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(result) {
            Ok(count) => filled += count,
            Err(_) => assert_eq!(
                io::Error::last_os_error().kind(),
                io::ErrorKind::Interrupted,
                "getrandom fails only when interrupted"
            ),
        }
    }
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeroes is the empty set.
    let set = unsafe { set.assume_init_mut() };
    // SAFETY: `cpu` is inside the set, checked above.
    unsafe { libc::CPU_SET(cpu, set) };
    // SAFETY: the pointer and the length describe `set`; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) })?;
    Ok(())
}

/// CPUs that the calling thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the pointer and the length describe `set`; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result < 0 {
        return Vec::new();
    }
    // SAFETY: all zeroes is a set, and the call filled it.
    let set = unsafe { set.assume_init() };
    // SAFETY: the index is inside the set.
    (0..8 * size_of::<libc::cpu_set_t>()).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// An exclusive lock on an open file description, not waited for. `false`: another description holds it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: plain system call without pointers.
    match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Alignment that direct I/O wants: of memory and of offsets. `None`: the file system doesn't tell, or has no direct I/O.
pub(crate) fn direct_alignment(fd: BorrowedFd<'_>) -> io::Result<Option<(u32, u32)>> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a terminated empty string and the pointer is to writable memory of the right type.
    check(unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            status.as_mut_ptr(),
        )
    })?;
    // SAFETY: all zeroes is a value of this plain structure, and the call filled it.
    let status = unsafe { status.assume_init() };
    let told = status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_mem_align != 0;
    Ok(told.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align)))
}

/// What `statfs` says of the file system under an open file.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> io::Result<libc::statfs> {
    let mut status = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the pointer is to writable memory of the right type.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: all zeroes is a value of this plain structure, and the call filled it.
    Ok(unsafe { status.assume_init() })
}

/// Reserves space, the file's size included.
pub(crate) fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: plain system call without pointers.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), 0, offset, len) }).map(drop)
}

/// Soft and hard limit of locked memory, in bytes; `u64::MAX` is none.
pub(crate) fn memlock_limit() -> (u64, u64) {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Soft and hard limit of open files.
pub(crate) fn open_files_limit() -> (u64, u64) {
    limit(libc::RLIMIT_NOFILE)
}

/// Raises the soft limit of open files to the hard one; returns the limit that holds then.
pub(crate) fn raise_open_files_limit() -> u64 {
    let (soft, hard) = open_files_limit();
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the pointer is to a structure of the right type.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 { hard } else { soft }
}

fn limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to writable memory of the right type.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    assert_eq!(result, 0, "the kernel has this limit");
    (limit.rlim_cur, limit.rlim_max)
}

/// Bytes on transparent huge pages in the mapping that holds `address`.
pub(crate) fn resident_huge_bytes(address: usize) -> usize {
    let Ok(maps) = std::fs::read_to_string(Path::new("/proc/self/smaps")) else { return 0 };
    let mut inside = false;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((start, end)) = first.split_once('-') {
            let start = usize::from_str_radix(start, 16).unwrap_or(usize::MAX);
            inside = start <= address && usize::from_str_radix(end, 16).is_ok_and(|end| address < end);
        } else if inside && first == "AnonHugePages:" {
            return words.next().and_then(|count| count.parse::<usize>().ok()).unwrap_or(0) * 1024;
        }
    }
    0
}

/// Which uring to enter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EnterRing {
    /// By its descriptor.
    Plain(RawFd),
    /// By its place among the thread's registered ones.
    Registered(u32),
}

/// `struct io_uring_getevents_arg` of include/uapi/linux/io_uring.h.
#[repr(C)]
struct EventsArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `struct io_uring_rsrc_update` of the same.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// Enters a uring; waits for `timeout` nanoseconds at most.
///
/// # Safety
///
/// What the queued entries point to is as the kernel expects it.
pub(crate) unsafe fn enter_ring(
    ring: EnterRing,
    queued: u32,
    wanted: u32,
    flags: u32,
    timeout: Option<u64>,
) -> io::Result<()> {
    let (number, mut flags) = match ring {
        EnterRing::Plain(fd) => (libc::c_long::from(fd), flags),
        EnterRing::Registered(place) => (libc::c_long::from(place), flags | ENTER_REGISTERED_RING),
    };
    let timeout = timeout.map(|nanoseconds| libc::timespec {
        tv_sec: libc::time_t::try_from(nanoseconds / Nanos::SECOND).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(nanoseconds % Nanos::SECOND).expect("below 10^9"),
    });
    let argument = EventsArgument {
        signal_mask: 0,
        signal_mask_bytes: 0,
        min_wait_us: 0,
        timeout: timeout.as_ref().map_or(0, |timeout| std::ptr::from_ref(timeout) as u64),
    };
    let (pointer, bytes) = if timeout.is_some() {
        flags |= ENTER_EXT_ARG;
        (&raw const argument, size_of::<EventsArgument>())
    } else {
        (std::ptr::null(), 0)
    };
    // SAFETY: the argument and the time that it points to outlive the call; the entries are the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_enter, number, queued, wanted, flags, pointer, bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Registers a uring's descriptor with the calling thread; returns its place.
pub(crate) fn register_ring(ring: RawFd) -> io::Result<u32> {
    let data = u64::try_from(ring).expect("descriptors aren't negative");
    let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data };
    // SAFETY: the pointer is to one structure of the kind that the call reads and writes.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_RING_FDS, &raw mut update, 1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(update.offset) }
}

/// Takes a registered uring's place back.
pub(crate) fn unregister_ring(ring: RawFd, place: u32) {
    let mut update = ResourceUpdate { offset: place, reserved: 0, data: 0 };
    // SAFETY: the pointer is to one structure of the kind that the call reads.
    let _ =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, UNREGISTER_RING_FDS, &raw mut update, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn only_loopback_is_unpaced() {
        let hosts = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("Linux");
        for (address, expected) in [
            ("127.0.0.1:1", "reno"),
            ("[::1]:1", "reno"),
            ("192.0.2.1:1", hosts.trim()),
            ("[2001:db8::1]:1", hosts.trim()),
        ] {
            // A machine may be without IPv6.
            let Ok(socket) = tcp_socket(address.parse().expect("an address")) else { continue };
            assert_eq!(congestion(socket.as_fd()).expect("a TCP socket"), expected, "{address}");
        }
    }
}
