//! Handles SIGBUS. The kernel sends it when a memory-mapped file can no longer be read, because it
//! was truncated or its disk failed. The handler ends this process with an error that names the
//! file: a worker reports it, so that only one stage fails; a command prints it. Large
//! files of users (tables of images, checkpoints) are mapped in workers and in commands that only
//! read them; archives of images are read. A runner maps nothing while stages run, since all of them
//! would end with it; digests are computed by reading.
//!
//! Knows nothing of stages. The file is found by its address in `/proc/self/maps`.

use erw_base::error::Error;
use erw_report::diagnostic;
use erw_runner::exec::worker;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Installs the handler; `works` for a worker, which writes it into its report.
pub fn name_files_cut_short(works: bool) {
    let handler = if works { SigHandler::SigAction(end_worker) } else { SigHandler::SigAction(end_command) };
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    #[expect(unsafe_code, reason = "the handlers run where mapped bytes are being copied, which holds no lock of ours")]
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

extern "C" fn end_worker(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(error) = error(info) else { return die() };
    worker::fail(error);
    end(1);
}

extern "C" fn end_command(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(error) = error(info) else { return die() };
    diagnostic::print(&error);
    end(error.exit_code());
}

/// No file is the cause: restores the default action, so that the instruction is retried and the
/// signal ends the process.
fn die() {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "puts back what was there before")]
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

fn end(status: i32) -> ! {
    #[expect(unsafe_code, reason = "a thread that cannot continue has nothing to clean up")]
    unsafe {
        libc::_exit(status)
    }
}

/// The error about the file; `None` if no file is the cause.
fn error(info: *mut libc::siginfo_t) -> Option<Error> {
    #[expect(unsafe_code, reason = "the kernel gives the address that was touched with this signal")]
    let address = unsafe { info.as_ref()?.si_addr() } as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let file = maps.lines().find_map(|line| file_at(line, address))?;
    let error = Error::usage(format!("`{file}` was truncated while it was read, or its disk failed"));
    Some(error.hint("rerun when nothing writes to it"))
}

/// The file of a line of `/proc/self/maps` (`7f00-7f10 r--p 00000000 08:01 42   /a b`), if the
/// address is in its range.
fn file_at(line: &str, address: usize) -> Option<&str> {
    let (start, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let hex = |text: &str| usize::from_str_radix(text, 16).ok();
    let path = &rest[rest.find('/')?..];
    (hex(start)? <= address && address < hex(end)?).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::file_at;

    #[test]
    fn a_file_is_found_by_an_address_in_it() {
        let line = "7f00-7f10 r--p 00000000 08:01 42                         /data/a b-c";
        assert_eq!(file_at(line, 0x7f0f), Some("/data/a b-c"));
        assert_eq!(file_at(line, 0x7f10), None);
        assert_eq!(file_at("7f00-7f10 rw-p 00000000 00:00 0    [heap]", 0x7f01), None);
    }
}
