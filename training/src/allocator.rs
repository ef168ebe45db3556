//! A setting of glibc's allocator that tensors want: large buffers stay in the process instead of going back to the kernel.
//! It is no allocator, and on systems without glibc it does nothing.

/// Keeps freed buffers in the process. Call it once, first thing in `main`.
///
/// Every tensor operation allocates its result. By default glibc maps each large buffer anew and unmaps it when it is freed, and
/// the page faults cost 12–21 % of a training step; with these thresholds buffers are used again. They hold for the heap of the
/// first thread alone: those of others are of 64 MiB at most and map what is larger. So all threads share that one.
#[allow(unsafe_code)]
pub fn tune_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers, reads and writes only the allocator's own settings, and may be called at any
    // time; an unknown value is refused with a return of 0, which leaves the setting as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
