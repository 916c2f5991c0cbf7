//! The program: runs the command line, prints an error if there is one, and exits with its code.

fn main() {
    erw::process::tune(erw::cli::trains());
    erw::cli::worker::mapped_files::name_files_cut_short(erw::cli::trains());
    let status = match erw::cli::main(erw::stages::KINDS) {
        Ok(status) => status,
        Err(error) => {
            erw::report::diagnostic::print(&error);
            error.exit_code()
        }
    };
    std::process::exit(status);
}
