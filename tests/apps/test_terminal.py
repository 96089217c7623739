"""What reaches a person."""

from medseg.apps.terminal import Terminal


def test_of_several_processes_one_tells_warnings_and_each_its_errors(capsys):
    others = Terminal()
    others.leave_to_others()
    for terminal in (Terminal(), others):
        terminal.warning("W-SHORT")
        terminal.error("E-MEMORY")
    told = capsys.readouterr().err
    assert (told.count("W-SHORT"), told.count("E-MEMORY")) == (1, 2)
