"""The line of image generators, each trained for as long as the others, on one page of figures.

`systems` says what there is, `plan` for how many steps each part is trained, `work` runs the
commands that train, `measure` evaluates, `story` says what got better, `page` writes it all.
"""
