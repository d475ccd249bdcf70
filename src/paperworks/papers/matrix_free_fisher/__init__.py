"""M-FAC, the matrix-free inverse Fisher matrix: card, claims and command."""
