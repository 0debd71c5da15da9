"""The subcommands of `videovit`, one module each; `videovit.cli` lists them."""
