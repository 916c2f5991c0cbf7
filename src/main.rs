//! The program: reads the command line, does what it says, prints the error if there is one, exits with its code.

fn main() {
    keep_backtraces_out_of_messages();
    erw::process::tune(erw::cli::trains());
    erw::mapped::name_files_cut_short(erw::cli::trains());
    let status = match erw::cli::main(erw::stages::KINDS) {
        Ok(status) => status,
        Err(error) => {
            erw::report::diagnostic::print(&error);
            error.exit_code()
        }
    };
    std::process::exit(status);
}

/// candle puts a backtrace into the text of every error when RUST_BACKTRACE asks for one, and a message about a
/// truncated file becomes fifty lines. Panics still show theirs; RUST_LIB_BACKTRACE=1 brings the others back.
fn keep_backtraces_out_of_messages() {
    erw::process::set_unless_given("RUST_LIB_BACKTRACE", "0");
}
