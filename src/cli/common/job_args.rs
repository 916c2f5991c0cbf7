//! Arguments about where stages run, and the settings that they state.

use erw_runner::settings::{LauncherName, Settings, StageSettings};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct JobArgs {
    /// Where stages run: here, or as jobs of Slurm [default: local]
    #[arg(long, value_name = "NAME", value_parser = launcher)]
    pub launcher: Option<LauncherName>,
    /// Partition of jobs
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// Account of jobs
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Time limit of jobs, in Slurm's words, such as 24:00:00
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
}

impl JobArgs {
    /// The settings, with what these flags and `more` state.
    pub fn over(&self, mut settings: Settings, more: StageSettings) -> Settings {
        let flags = StageSettings {
            partition: self.partition.clone(),
            account: self.account.clone(),
            time: self.time.clone(),
            ..more
        };
        settings.stated = flags.or(std::mem::take(&mut settings.stated));
        settings.launcher = self.launcher.unwrap_or(settings.launcher);
        settings
    }
}

fn launcher(text: &str) -> Result<LauncherName, String> {
    match text {
        "local" => Ok(LauncherName::Local),
        "slurm" => Ok(LauncherName::Slurm),
        _ => Err("expected local or slurm".into()),
    }
}
