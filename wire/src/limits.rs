//! Every bound on what travels, with its unit and its reason.
//!
//! Owns: the outer bounds that hold whatever the configuration says.
//! Never: per-job or per-tenant limits; those are configuration.

/// Largest frame body, bytes. Room for the largest module ([`MODULE_BYTES_MAX`]) and its input with the
/// rest of a submission; the configuration may set a lower bound for clients, never a higher one.
pub const FRAME_BODY_BYTES_MAX: usize = 96 << 20;

/// Most descriptors beside one frame between client and daemon: a module and an input.
pub const FRAME_FDS_MAX: usize = 2;

/// From this length on, bytes, a module, an input or an output travels as a sealed file in memory beside its frame,
/// where both ends can. Below it, copying the bytes a few times costs less than making a file.
pub const BESIDE_BYTES_MIN: usize = 64 << 10;

/// Largest frame that may open a connection, bytes. A stranger gets no more than this read for them.
pub const HELLO_FRAME_BYTES_MAX: usize = 4 << 10;

/// Largest message on a zygote's or worker's link, bytes. Links are `SOCK_SEQPACKET`: a message is one
/// packet, and this is below the kernel's default socket buffer (212,992 bytes) with its overhead.
pub const LINK_MESSAGE_BYTES_MAX: usize = 128 << 10;

/// Longest value of a function that its worker may send with its report, bytes; a longer one goes through the output pipe.
pub const RETURNED_BYTES_MAX: usize = 32 << 10;

/// Longest source of a script, and its longest input, that travel in its order, bytes each; longer ones, and what a client gave
/// as a descriptor, come as descriptors beside it. Making a file in memory, passing it on and reading it takes some 20 µs.
pub const SCRIPT_TEXT_BYTES_MAX: usize = 16 << 10;

/// Longest form that a script compiles to that is kept, and travels in an order with its source, bytes; that of a script of usual
/// make has two to three times its source's length.
pub const SCRIPT_FORM_BYTES_MAX: usize = RETURNED_BYTES_MAX;

// All three fit into a link message, with an environment, a name and ids. A script has no arguments.
const _: () = assert!(
    2 * SCRIPT_TEXT_BYTES_MAX + SCRIPT_FORM_BYTES_MAX + STRINGS_BYTES_MAX + (8 << 10)
        <= LINK_MESSAGE_BYTES_MAX
);

/// Most descriptors that travel with one link message.
pub const LINK_FDS_MAX: usize = 6;

/// Most workers that a template forks for one order. More would have the first of them wait for the last.
pub const FORKS_MAX: usize = 4;

/// Most descriptors of one worker that come with the order to fork it: link, three pipes, leaf.
pub const FORK_FDS_MAX: usize = 5;

/// Largest module, bytes.
pub const MODULE_BYTES_MAX: usize = 64 << 20;

/// Largest input, bytes.
pub const INPUT_BYTES_MAX: usize = 16 << 20;

/// Most arguments and the most environment variables of one job.
pub const STRINGS_MAX: usize = 1024;

/// Most bytes of arguments and of environment of one job, each; both travel in one link message.
pub const STRINGS_BYTES_MAX: usize = 48 << 10;

/// Most granted directories of one job. Each is a Landlock rule and an open directory in the worker.
pub const DIRECTORIES_MAX: usize = 32;

/// Longest path of a granted directory, bytes; the kernel's `PATH_MAX` less its final NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most bytes of all granted directories' paths of one job; they travel in one link message.
pub const DIRECTORIES_BYTES_MAX: usize = 16 << 10;

/// Longest name (entry point, tenant, profile, file name shown to people), bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest text a worker may send about a guest, bytes; longer text is cut by the sender and refused by
/// the receiver.
pub const GUEST_TEXT_BYTES_MAX: usize = 4 << 10;

/// Largest piece of a log in one message to a client, bytes.
pub const LOG_CHUNK_BYTES_MAX: usize = 64 << 10;
