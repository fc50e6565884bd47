import asyncpg
from tests.support.backends import create_database


class TestDatabases:
    async def test_each_role_has_a_schema_of_its_own(self, database):
        session = await asyncpg.connect(database.dsns["notifier"])
        try:
            assert await session.fetchval("SELECT current_schema") == "notifier"
        finally:
            await session.close()

    async def test_a_copy_brings_the_tables_of_its_template(self, postgres):
        template = create_database(postgres=postgres)
        session = await asyncpg.connect(template.dsns["notifier"])
        await session.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
        await session.close()

        copy = create_database(postgres=postgres, template=template.name)

        session = await asyncpg.connect(copy.dsns["notifier"])
        try:
            assert await session.fetchval("SELECT id FROM kept") == 7
        finally:
            await session.close()


class TestKafka:
    def test_is_handed_out_as_an_address(self, kafka):
        host, _, port = kafka.bootstrap.partition(":")
        assert host
        assert int(port) > 0
