"""Settings of the whole test suite."""

import hypothesis

# A deadline would make tests fail for a busy machine; pytest-timeout stops those that hang.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")
