"""What tests of several files share: made data, stubs, and programs that tests run in processes of their own."""
