//! What happens, scene by scene.

use std::time::Duration;

use super::stage::{Failure, Stage};
use super::users::RATE;

/// Plays it from the beginning to the end.
///
/// # Errors
///
/// What must come did not, or users saw failures.
pub(super) async fn play(stage: &mut Stage) -> Result<(), Failure> {
    stage.open(&format!(
        "tidegate drill: users send {RATE} requests a second, one every {} ms (settings: --show-config)",
        1000 / RATE
    ))?;
    all_is_well(stage).await?;
    a_node_dies(stage).await?;
    a_node_freezes(stage).await?;
    the_active_node_dies(stage).await?;
    the_role_moves_back(stage).await?;
    stage.verdict().await
}

async fn all_is_well(stage: &mut Stage) -> Result<(), Failure> {
    stage.scene("web", "ALL IS WELL: web-1, web-2 and web-3 share the work")?;
    for node in ["web-1", "web-2", "web-3"] {
        stage.until_state(("web", node), "healthy").await?;
    }
    stage.watch(seconds(4)).await?;
    stage.curtain().await
}

/// Refused connections go elsewhere, and nobody notices.
async fn a_node_dies(stage: &mut Stage) -> Result<(), Failure> {
    stage.scene(
        "web",
        "A NODE DIES: web-2 is killed between two requests; the others serve what it refuses",
    )?;
    stage.kill("web-2").await?;
    stage.until("evicted", "web-2").await?;
    stage.watch(seconds(3)).await?;
    // From here on it is for the checks to say when it is back.
    stage.until_state(("web", "web-2"), "unhealthy").await?;
    stage.start_again("web-2").await?;
    stage.until("reinstated", "web-2").await?;
    stage.watch(seconds(2)).await?;
    stage.curtain().await
}

/// Its kernel accepts, so that a mere connect shows nothing; the first byte that does not come does.
async fn a_node_freezes(stage: &mut Stage) -> Result<(), Failure> {
    stage.scene(
        "web",
        "A NODE FREEZES: web-3 is stopped (SIGSTOP); it still accepts and never answers",
    )?;
    stage.freeze("web-3")?;
    stage.until("evicted", "web-3").await?;
    stage.watch(seconds(4)).await?;
    stage.until_state(("web", "web-3"), "unhealthy").await?;
    stage.thaw("web-3")?;
    stage.until("reinstated", "web-3").await?;
    stage.watch(seconds(2)).await?;
    stage.curtain().await
}

/// One works, the other takes over within the very request that found out, and an action repairs.
async fn the_active_node_dies(stage: &mut Stage) -> Result<(), Failure> {
    stage.scene("db", "HOT STANDBY: db-1 works alone, db-2 stands by")?;
    for node in ["db-1", "db-2"] {
        stage.until_state(("db", node), "healthy").await?;
    }
    stage.watch(seconds(2)).await?;
    stage.say("db-1 is killed between two requests")?;
    stage.kill("db-1").await?;
    stage.until("evicted", "db-1").await?;
    stage.until("takeover", "db-2").await?;
    stage.until_recovery("success", "db-1").await?;
    stage.until("reinstated", "db-1").await?;
    stage.until_recovery("repaired", "db-1").await?;
    stage.watch(seconds(2)).await?;
    stage.curtain().await
}

/// With `failback: manual` a node that is back waits until somebody wants it.
async fn the_role_moves_back(stage: &mut Stage) -> Result<(), Failure> {
    stage.scene(
        "db",
        "MOVE BACK: db-1 waits (failback: manual) until `tidegate failover db db-1`",
    )?;
    stage.watch(seconds(1)).await?;
    stage.failover("db", "db-1").await?;
    stage.until("takeover", "db-1").await?;
    stage.watch(seconds(2)).await?;
    stage.curtain().await
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
