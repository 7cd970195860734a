//! The binary: reads the command line, runs one command, ends with an exit code of sysexits.

mod bench;
mod bundled;
mod chat;
mod check;
mod command;
mod draws;
mod engine;
mod eval;
mod fault;
mod files;
mod inspect;
mod interrupt;
mod parts;
mod plot;
mod progress;
mod run;
mod served;
mod up;

use std::process::ExitCode;

use hadal_shell::config;
use hadal_shell::exit::Exit;

use command::{Cli, Command};
use fault::Fault;

fn main() -> ExitCode {
    let ended = match Cli::read(std::env::args_os().collect()) {
        Ok(cli) => dispatch(cli.command),
        Err(config::Error::Usage(usage)) => {
            // Help and version are errors to clap, but not to who asked for them.
            let exit = if usage.use_stderr() { Exit::Usage } else { Exit::Ok };
            drop(usage.print());
            Ok(exit)
        }
        Err(config::Error::File(file)) => Err(Fault::new(Exit::Config, file)),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(fault) => {
            eprintln!("hadal: {fault}");
            fault.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Fault> {
    match command {
        Command::Up(options) => run::serve(options.run.clone(), up::run(*options)),
        Command::Router(options) => run::serve(options.run.clone(), parts::router(*options)),
        Command::Coordinator(options) => run::serve(options.run.clone(), parts::coordinator(*options)),
        Command::Worker(options) => run::serve(options.run.clone(), parts::worker(*options)),
        Command::Chat(options) => run::client(chat::run(*options)),
        Command::Eval(options) => run::client(eval::run(*options)),
        Command::Bench(options) => bench::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Check(options) => check::run(&options),
    }
}
