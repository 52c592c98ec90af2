"""An audit before training: what the rewards of a recipe are worth, and what its model makes of them."""

from grao.studies.audit.run import audit_folder, audit_rewards

__all__ = ["audit_folder", "audit_rewards"]
