"""Wire a federation into a Flower ServerApp; simulations and live runs start this same app."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.federation import RUN_CONFIG_KEY, FederationConfig
from server.rounds import Federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's config describes."""
    Federation(grid, FederationConfig.parse(context.run_config.get(RUN_CONFIG_KEY))).run()
