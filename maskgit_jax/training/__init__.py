"""How anything is trained: knows `Stage`, not the stages."""
