//! The command line as it is typed.
//!
//! Owns: commands, flags and their help; what a job's flags mean is in `job_args.rs`.
//! Never: reads a file, decides a default that belongs to the configuration.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use stockade_wire::job::{Isolation, Layer};

use super::grant::{self, EnvironmentGrant};
use crate::config::units;

/// What the help of a command that runs jobs ends with.
macro_rules! job_help {
    ($($example:literal)*) => {
        concat!(
            "Examples:\n", $("  stockade ", $example, "\n",)* "\n\
Exit status:
  the guest's own when it ran to its end; 124 timed out or out of fuel; 134 trapped;
  137 out of memory, too much output, cancelled or killed;
  126 denied, or not a module that can run; 141 the reader of the output went away;
  125 Stockade's own failure, or a command line that makes no sense"
        )
    };
}

const RUN_HELP: &str = job_help!(
    "run --bill program.wasm --its-own flags"
    "run --dir ./photos:ro --dir ./out::/out --memory 256M resize.wasm photos /out"
    "run --entry add sum.wat 40 2"
    "run transform.js --input order.json"
);

const SUBMIT_HELP: &str = job_help!(
    "submit --timeout 2s plugin.wasm < in.json"
    "submit --detach --durable batch.wasm"
    "submit --isolation tenant --entry handle handler.mjs --input event.json"
);

/// Runs code nobody has to trust: WebAssembly and JavaScript jobs in forked, jailed worker processes.
#[derive(Debug, Parser)]
#[command(name = "stockade", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Configuration file [default: STOCKADE_CONFIG, else /etc/stockade/stockade.toml if there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// The daemon's socket [default: STOCKADE_SOCKET, the configuration, the runtime directory]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub socket: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one job now, in the same jail, without a daemon
    ///
    /// Standard input, output, error and the exit status are the guest's; where standard error is a terminal,
    /// control characters in it are spelt out. FILE is recognised by its content: JavaScript, a WASI preview 1 command,
    /// a module with an exported function, a WASI 0.2 command component, or WebAssembly text. What follows FILE is the
    /// guest's; a script takes no arguments, so that flags may follow it.
    #[command(after_help = RUN_HELP, override_usage = "stockade run [OPTIONS] FILE [ARGS]...")]
    Run(Box<RunArgs>),
    /// Run the daemon
    ///
    /// Serves until SIGTERM or SIGINT; jobs that run may finish first (`clients.drain_timeout`), unless it is told twice.
    /// SIGHUP has it read its configuration again.
    Serve,
    /// Run a job through the daemon
    ///
    /// Takes the flags of `run`. Waits for the end, unless --detach.
    #[command(after_help = SUBMIT_HELP, override_usage = "stockade submit [OPTIONS] FILE [ARGS]...")]
    Submit(Box<SubmitArgs>),
    /// List jobs
    Ps(JsonArgs),
    /// Print a job's logs
    Logs(LogsArgs),
    /// Print a job's result, as `submit` would have
    ///
    /// Waits for the end. The exit status is the job's.
    Result(ResultArgs),
    /// End a job
    Cancel(CancelArgs),
    /// Print the daemon's figures
    Stats(JsonArgs),
    /// Print every layer of the jail: present, version, missing and how to get it
    ///
    /// Starts one worker as a daemon would, to see what it has. Exits with 1 when no job could run here: no worker can
    /// be started, a layer that the configuration requires is missing, or the cache of compiled modules cannot be used.
    Doctor(JsonArgs),
    /// Say whether FILE can be run, without running it
    ///
    /// JavaScript is looked at for its syntax, as a script or as a module, and WebAssembly is compiled, in a jailed
    /// process as by `run`. Exits with 126 when it cannot be run.
    Check(CheckArgs),
    /// Print the jail this job would get, without running it
    ///
    /// Takes what `run` takes to describe a job, and exits as `run` would where it would be refused.
    #[command(override_usage = "stockade explain [OPTIONS] FILE [ARGS]...")]
    Explain(Box<ExplainArgs>),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory, for a package
    #[command(hide = true)]
    Manual(ManualArgs),
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Check it, and print what is in force and where each value came from
    ///
    /// Exits with 2 when it is refused.
    Check(JsonArgs),
}

/// Flags of a command that only reports.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The job's id
    pub job: String,
    /// Go on until the job ends
    #[arg(short, long)]
    pub follow: bool,
}

/// Flags of `result`.
#[derive(Debug, Clone, Args)]
pub struct ResultArgs {
    /// The job's id
    pub job: String,
    /// How its end is told.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Flags of `cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelArgs {
    /// The job's id
    pub job: String,
}

/// Flags of `completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Flags of `manual`.
#[derive(Debug, Clone, Args)]
pub struct ManualArgs {
    /// The directory; made if it is not there
    pub directory: PathBuf,
}

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Print one JSON object, the result of the look
    #[arg(long)]
    pub json: bool,
    /// Take JavaScript for a module and nothing else, as `--entry` and a name that ends in .mjs do elsewhere
    #[arg(long)]
    pub module: bool,
    /// The script, module, component or WebAssembly text
    pub file: OsString,
}

/// Flags of `run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// How its end is told.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Flags of `submit`.
#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    /// Print the job's id and do not wait for its end
    #[arg(long, conflicts_with_all = ["json", "bill", "cpu_profile"])]
    pub detach: bool,
    /// Have exactly one final record of the job, whatever crashes; `stockade result` asks for it
    #[arg(long)]
    pub durable: bool,
    /// Have it checked first, and submit it only if it can be run; see `stockade check`
    #[arg(long)]
    pub check: bool,
    /// How its end is told.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
}

/// How the end of a job is told.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ReportArgs {
    /// Print one JSON object, the result, instead of the guest's output
    #[arg(long)]
    pub json: bool,
    /// Print what the job used and what confined it to standard error
    #[arg(long)]
    pub bill: bool,
}

impl ReportArgs {
    /// How the end of `job` is told: whoever debugs it wants the bill.
    #[must_use]
    pub const fn of(self, job: &JobArgs) -> Self {
        Self { bill: self.bill || job.debug || job.cpu_profile.is_some(), ..self }
    }
}

/// A job, as `run`, `submit` and `explain` take it.
#[derive(Debug, Clone, Default, Args)]
pub struct JobArgs {
    /// The guest's input; `-` is standard input [default: standard input, unless it is a terminal]
    #[arg(long, value_name = "FILE", help_heading = "What the guest gets")]
    pub input: Option<PathBuf>,
    /// An environment variable for the guest, which gets no others (repeatable)
    #[arg(long, value_name = "K=V", value_parser = grant::environment, help_heading = "What the guest gets")]
    pub env: Vec<EnvironmentGrant>,
    /// A directory for the guest, which sees no others; `:ro` takes away the right to change it (repeatable)
    #[arg(long, value_name = "HOST[::GUEST][:ro]", value_parser = grant::directory,
          help_heading = "What the guest gets")]
    pub dir: Vec<grant::DirectoryWish>,
    /// Exported function to call [default: _start, else the only function there is]; makes JavaScript a module
    #[arg(long, value_name = "NAME", help_heading = "What the guest gets")]
    pub entry: Option<String>,
    /// Wall time, such as 500ms, 2s or 1m
    #[arg(long, value_name = "TIME", value_parser = microseconds, help_heading = "Limits")]
    pub timeout: Option<u64>,
    /// Time between SIGTERM and SIGKILL once the timeout is over
    #[arg(long, value_name = "TIME", value_parser = microseconds, help_heading = "Limits")]
    pub grace: Option<u64>,
    /// CPU time, user and system
    #[arg(long, value_name = "TIME", value_parser = microseconds, help_heading = "Limits")]
    pub cpu: Option<u64>,
    /// The guest's memories and tables together, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, help_heading = "Limits")]
    pub memory: Option<u64>,
    /// Wasm fuel, about one unit an instruction
    #[arg(long, value_name = "N", value_parser = units::parse_count, help_heading = "Limits")]
    pub fuel: Option<u64>,
    /// Output, such as 16M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, help_heading = "Limits")]
    pub output_limit: Option<u64>,
    /// Size of each of the two log rings, such as 1M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, help_heading = "Limits")]
    pub log_buffer: Option<u64>,
    /// Limits by name, or from a file (a path with a / or ending in .toml)
    #[arg(long, value_name = "NAME|FILE", help_heading = "Limits")]
    pub profile: Option<String>,
    /// Whether the process may be one that ran this tenant's jobs before
    #[arg(long, value_enum, help_heading = "Isolation")]
    pub isolation: Option<IsolationWish>,
    /// Refuse to run without this layer, on top of the configuration's (repeatable)
    #[arg(long, value_name = "LAYER", value_parser = layers(), help_heading = "Isolation")]
    pub require: Vec<Layer>,
    /// Your own id for what you ask, for a script to read as ctx.request
    #[arg(long, value_name = "ID", help_heading = "What the guest gets")]
    pub request_id: Option<String>,
    /// Say when each line of a script's log was written, what took how long and how much memory, and print the bill
    #[arg(long, help_heading = "What is told")]
    pub debug: bool,
    /// As --debug, and write where a script's time went to FILE, a .cpuprofile for developer tools
    #[arg(long, value_name = "FILE", help_heading = "What is told")]
    pub cpu_profile: Option<PathBuf>,
    /// A name within your own identity that keeps jobs apart
    #[arg(long, value_name = "NAME", help_heading = "Isolation")]
    pub tenant: Option<String>,
    /// The script, module, component or WebAssembly text, then the guest's own arguments
    #[arg(value_name = "FILE [ARGS]", required = true, num_args = 1.., trailing_var_arg = true,
          allow_hyphen_values = true)]
    pub program: Vec<OsString>,
}

impl JobArgs {
    /// The file to run.
    #[must_use]
    pub fn file(&self) -> &OsStr {
        self.program.first().map_or_else(|| OsStr::new(""), OsString::as_os_str)
    }

    /// What follows it.
    #[must_use]
    pub fn guest_arguments(&self) -> &[OsString] {
        self.program.get(1..).unwrap_or_default()
    }
}

/// Isolation as the command line offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsolationWish {
    /// A process that has never run a job and never runs another
    Fresh,
    /// A process that may be reused for the same tenant and module, or the same tenant's scripts
    Tenant,
}

impl From<IsolationWish> for Isolation {
    fn from(wish: IsolationWish) -> Self {
        match wish {
            IsolationWish::Fresh => Self::Fresh,
            IsolationWish::Tenant => Self::Tenant,
        }
    }
}

fn microseconds(text: &str) -> Result<u64, units::UnitError> {
    let duration = units::parse_duration(text)?;
    u64::try_from(duration.as_micros()).map_err(|_| units::UnitError::TooLarge)
}

fn layers() -> impl TypedValueParser<Value = Layer> {
    PossibleValuesParser::new(Layer::ALL.map(Layer::name)).try_map(|name| {
        let found = Layer::ALL.into_iter().find(|layer| layer.name() == name);
        found.ok_or("no such layer")
    })
}
