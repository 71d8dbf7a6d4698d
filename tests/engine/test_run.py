def test_x(trained):
    print(trained.scores, list(trained.work_dir.iterdir()))
    assert len(trained.scores) == 3
