"""The lineage: all systems from the autoencoder to MaskGIT, trained for equally long, on one page.

`systems` lists them, `schedule` decides how many steps each training takes, `jobs` runs everything,
`measure` evaluates a system, `comparison` and `report` write the page.
"""
