"""What programs need of a machine, by arithmetic and by the compiler; nothing is run here."""
